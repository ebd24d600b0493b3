//! The paths that a source file names, found with `syn`: in `use`, in types and expressions, and in the arguments of macros.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

pub(crate) type ModulePath = Vec<String>;

/// A source file: its path from the package's root, and its syntax.
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) syntax: syn::File,
}

/// How a path is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By `use`.
    Import,
    /// By `pub use`, also with a narrower visibility.
    ReExport,
    /// In a type, an expression or a pattern.
    Code,
    /// As `Self::function` or `self.method()` in an `impl` block of this type. The path is the function's name.
    OwnFunction(String),
}

/// A path where it is named.
#[derive(Debug, Clone)]
pub(crate) struct NamedPath {
    /// The path as it is written. A glob ends in `*`.
    pub(crate) path: Vec<String>,
    /// The module that it is written in.
    pub(crate) module: ModulePath,
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    pub(crate) is_in_test: bool,
}

impl NamedPath {
    /// The path from the crate's root; `None` if it does not begin with `crate`, `self` or `super`.
    pub(crate) fn path_from_root(&self) -> Option<Vec<String>> {
        let supers = self.path.iter().take_while(|step| *step == "super").count();
        match self.path.first()?.as_str() {
            "crate" => Some(self.path[1..].to_vec()),
            "self" => Some([&self.module, &self.path[1..]].concat()),
            "super" => {
                let outer = &self.module[..self.module.len().saturating_sub(supers)];
                Some([outer, &self.path[supers..]].concat())
            }
            _ => None,
        }
    }
}

/// # Panics
/// If a text is not Rust.
pub(crate) fn parsed(files: &[(String, String)]) -> Vec<Source> {
    let parse = |text: &String, file| syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    files.iter().map(|(file, text)| Source { file: file.clone(), syntax: parse(text, file) }).collect()
}

/// Returns the module that a file is: `["gateway", "path"]` for `src/gateway/path.rs`.
pub(crate) fn module_of(file: &str) -> ModulePath {
    let inner = file.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    if inner == "lib" { Vec::new() } else { inner.split('/').map(str::to_owned).collect() }
}

/// Whether an item is compiled for tests only.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

/// Returns the name of the type that an `impl` block is for.
pub(crate) fn self_type(item: &syn::ItemImpl) -> Option<String> {
    let syn::Type::Path(path) = &*item.self_ty else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

/// One path of a `use` item.
pub(crate) struct Import {
    /// The name that the import gets; `None` for a glob.
    pub(crate) name: Option<String>,
    /// The path without the `*` of a glob.
    pub(crate) path: Vec<String>,
    line: usize,
}

pub(crate) fn imports_of(item: &syn::ItemUse) -> Vec<Import> {
    let mut found = Vec::new();
    imports(&item.tree, &mut Vec::new(), &mut found);
    found
}

fn imports(tree: &syn::UseTree, prefix: &mut Vec<String>, found: &mut Vec<Import>) {
    let with = |prefix: &Vec<String>, last: &syn::Ident| {
        let mut path = prefix.clone();
        if last != "self" || path.is_empty() {
            path.push(last.to_string());
        }
        path
    };
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            imports(&path.tree, prefix, found);
            prefix.pop();
        }
        syn::UseTree::Name(name) => {
            let path = with(prefix, &name.ident);
            found.push(Import { name: path.last().cloned(), path, line: line_of(&name.ident) });
        }
        syn::UseTree::Rename(rename) => found.push(Import {
            name: Some(rename.rename.to_string()),
            path: with(prefix, &rename.ident),
            line: line_of(&rename.ident),
        }),
        syn::UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            found.push(Import { name: None, path: prefix.clone(), line });
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| imports(item, prefix, found)),
    }
}

fn line_of(ident: &syn::Ident) -> usize {
    ident.span().start().line
}

/// Returns all paths that a file names, in the order of the text.
pub(crate) fn named_in(source: &Source) -> Vec<NamedPath> {
    let is_in_test = source.file.ends_with("/tests.rs");
    let mut reader = Reader { module: module_of(&source.file), self_type: None, is_in_test, found: Vec::new() };
    reader.visit_file(&source.syntax);
    reader.found
}

struct Reader {
    module: ModulePath,
    /// The type of the `impl` block that is read.
    self_type: Option<String>,
    is_in_test: bool,
    found: Vec<NamedPath>,
}

impl Reader {
    fn note(&mut self, path: Vec<String>, line: usize, kind: Kind) {
        let (module, is_in_test) = (self.module.clone(), self.is_in_test);
        self.found.push(NamedPath { path, module, line, kind, is_in_test });
    }

    fn note_own_function(&mut self, function: &syn::Ident) {
        if let Some(own) = self.self_type.clone() {
            self.note(vec![function.to_string()], line_of(function), Kind::OwnFunction(own));
        }
    }

    fn within(&mut self, attributes: &[syn::Attribute], read: impl FnOnce(&mut Self)) {
        let outer = self.is_in_test;
        self.is_in_test |= is_test(attributes);
        read(self);
        self.is_in_test = outer;
    }

    /// Reads the arguments of a macro that are no list of expressions: everything that has `::` in it.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let (mut path, mut line, mut colons) = (prefix.to_vec(), 0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note_qualified(std::mem::replace(&mut path, prefix.to_vec()), line);
                    }
                    path.push(ident.to_string());
                    (line, colons) = (line_of(&ident), 0);
                }
                TokenTree::Group(group) if colons == 2 && group.delimiter() == Delimiter::Brace => {
                    self.tokens(group.stream(), &std::mem::replace(&mut path, prefix.to_vec()));
                    colons = 0;
                }
                other => {
                    self.note_qualified(std::mem::replace(&mut path, prefix.to_vec()), line);
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream(), &[]);
                    }
                    colons = 0;
                }
            }
        }
        self.note_qualified(path, line);
    }

    fn note_qualified(&mut self, path: Vec<String>, line: usize) {
        if path.len() > 1 {
            self.note(path, line, Kind::Code);
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            syn::Item::Type(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        self.within(attributes, |reader| visit::visit_item(reader, item));
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.within(&function.attrs, |reader| visit::visit_impl_item_fn(reader, function));
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let is_import = matches!(item.vis, syn::Visibility::Inherited);
        for Import { name, mut path, line } in imports_of(item) {
            if name.is_none() {
                path.push("*".to_owned());
            }
            self.note(path, line, if is_import { Kind::Import } else { Kind::ReExport });
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.self_type, self_type(item));
        visit::visit_item_impl(self, item);
        self.self_type = outer;
    }

    /// `pub(in crate::a)` names a module and uses nothing of it.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let last = &path.segments.last().unwrap().ident;
        match names.as_slice() {
            [own, _, ..] if own == "Self" => self.note_own_function(&path.segments[1].ident),
            _ => self.note(names, line_of(last), Kind::Code),
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        if matches!(&*call.receiver, syn::Expr::Path(receiver) if receiver.path.is_ident("self")) {
            self.note_own_function(&call.method);
        }
        visit::visit_expr_method_call(self, call);
    }

    /// The arguments of most macros are expressions.
    fn visit_macro(&mut self, called: &'a syn::Macro) {
        type Arguments = syn::punctuated::Punctuated<syn::Expr, syn::Token![,]>;
        match called.parse_body_with(Arguments::parse_terminated) {
            Ok(arguments) => {
                // The visitor borrows for as long as the file lives, and these expressions do not.
                let (module, self_type) = (self.module.clone(), self.self_type.clone());
                let mut inner = Self { module, self_type, is_in_test: self.is_in_test, found: Vec::new() };
                arguments.iter().for_each(|argument| inner.visit_expr(argument));
                self.found.append(&mut inner.found);
            }
            Err(_) => self.tokens(called.tokens.clone(), &[]),
        }
        visit::visit_macro(self, called);
    }
}
