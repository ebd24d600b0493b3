//! No file of `src/` depends on a file that depends on it, inside modules too.
//!
//! `tests/floors.rs` checks that imports between top-level modules go down. This test reads each file with `syn`, finds the files
//! whose items it uses, and looks for circles. It follows `use`, paths in code, `super::`, re-exports by `pub use`, and calls of
//! `self.method()` and `Self::function()` whose `impl` block is in another file. `mod child;` and `pub use child::Item` are no
//! dependencies: a parent may show what its children have. Test code does not count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that meets the unexpected fails")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

/// The circles that are still there. A new one fails, and so does one that is gone and still listed.
const KNOWN: [&[&str]; 1] = [&[
    "src/gateway.rs",
    "src/gateway/authorize.rs",
    "src/gateway/bounds.rs",
    "src/gateway/bounds/attempts.rs",
    "src/gateway/bounds/rates.rs",
    "src/gateway/bounds/slas_calls.rs",
    "src/gateway/bounds/subject.rs",
    "src/gateway/caller/authenticate.rs",
    "src/gateway/forward.rs",
    "src/gateway/legacy.rs",
    "src/gateway/on_behalf.rs",
    "src/gateway/slas.rs",
    "src/gateway/slas/answer.rs",
    "src/gateway/slas/client.rs",
    "src/gateway/slas/login.rs",
]];

type ModulePath = Vec<String>;

/// What a name means inside a module.
#[derive(Debug, Clone)]
enum Binding {
    /// An item of this file.
    Item(usize),
    Module(ModulePath),
    /// What an import names.
    Import(ModulePath),
}

#[derive(Debug, Default)]
struct Module {
    names: BTreeMap<String, Binding>,
    globs: Vec<ModulePath>,
}

/// The items of all files, by the modules that they are in.
#[derive(Debug, Default)]
struct Items {
    modules: BTreeMap<ModulePath, Module>,
    /// The files with inherent methods and functions of a type, by the names of both.
    methods: BTreeMap<(String, String), BTreeSet<usize>>,
}

/// Why one file depends on another: the names that it uses.
type Dependencies = BTreeMap<(usize, usize), BTreeSet<String>>;

fn module_of(file: &str) -> ModulePath {
    let inner = file.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    if inner == "lib" { Vec::new() } else { inner.split('/').map(str::to_owned).collect() }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

/// The paths of a use tree with the names that they get; `None` for a glob.
fn imports(tree: &syn::UseTree, prefix: &mut ModulePath, found: &mut Vec<(Option<String>, ModulePath)>) {
    let with = |prefix: &ModulePath, last: &syn::Ident| {
        let mut path = prefix.clone();
        if last != "self" {
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
            found.push((path.last().cloned(), path));
        }
        syn::UseTree::Rename(rename) => found.push((Some(rename.rename.to_string()), with(prefix, &rename.ident))),
        syn::UseTree::Glob(_) => found.push((None, prefix.clone())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| imports(item, prefix, found)),
    }
}

fn imports_of(item: &syn::ItemUse) -> Vec<(Option<String>, ModulePath)> {
    let mut found = Vec::new();
    imports(&item.tree, &mut Vec::new(), &mut found);
    found
}

fn self_type(item: &syn::ItemImpl) -> Option<String> {
    let syn::Type::Path(path) = &*item.self_ty else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

impl Items {
    fn add(&mut self, module: ModulePath, file: usize, items: &[syn::Item]) {
        let mut own = Module::default();
        for item in items {
            let name = match item {
                syn::Item::Const(item) => &item.ident,
                syn::Item::Enum(item) => &item.ident,
                syn::Item::Fn(item) => &item.sig.ident,
                syn::Item::Static(item) => &item.ident,
                syn::Item::Struct(item) => &item.ident,
                syn::Item::Trait(item) => &item.ident,
                syn::Item::Type(item) => &item.ident,
                syn::Item::Mod(item) if !is_test(&item.attrs) => {
                    let mut path = module.clone();
                    path.push(item.ident.to_string());
                    if let Some((_, items)) = &item.content {
                        self.add(path.clone(), file, items);
                    }
                    own.names.insert(item.ident.to_string(), Binding::Module(path));
                    continue;
                }
                syn::Item::Use(item) if !is_test(&item.attrs) => {
                    for (name, path) in imports_of(item) {
                        match name {
                            Some(name) => drop(own.names.entry(name).or_insert(Binding::Import(path))),
                            None => own.globs.push(path),
                        }
                    }
                    continue;
                }
                syn::Item::Impl(item) if item.trait_.is_none() && !is_test(&item.attrs) => {
                    let Some(own) = self_type(item) else { continue };
                    for function in &item.items {
                        if let syn::ImplItem::Fn(function) = function {
                            let name = (own.clone(), function.sig.ident.to_string());
                            self.methods.entry(name).or_default().insert(file);
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            own.names.insert(name.to_string(), Binding::Item(file));
        }
        self.modules.insert(module, own);
    }

    /// The file that has the item that a path names inside a module; `None` for modules, and for what is of other crates.
    fn file_of(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<usize> {
        let (mut module, mut rest) = (module.clone(), path);
        // A path through itself is of another crate.
        if depth > 20 {
            return None;
        }
        match path.first()?.as_str() {
            "crate" => (module, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            _ => {
                while rest.first().is_some_and(|step| step == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
        }
        loop {
            let names = self.modules.get(&module)?;
            let name = rest.first()?;
            match names.names.get(name) {
                Some(Binding::Item(file)) => return Some(*file),
                Some(Binding::Module(inner)) => (module, rest) = (inner.clone(), &rest[1..]),
                Some(Binding::Import(import)) => {
                    return self.file_of(&module, &[import, &rest[1..]].concat(), depth + 1);
                }
                None => {
                    let mut globs = names.globs.iter();
                    return globs.find_map(|glob| self.file_of(&module, &[glob, rest].concat(), depth + 1));
                }
            }
        }
    }
}

/// Finds what one file depends on.
struct Finder<'i> {
    items: &'i Items,
    module: ModulePath,
    file: usize,
    /// The type whose `impl` block is read.
    own: Option<String>,
    found: &'i mut Dependencies,
}

impl Finder<'_> {
    fn note(&mut self, file: usize, name: String) {
        if file != self.file {
            self.found.entry((self.file, file)).or_default().insert(name);
        }
    }

    fn path(&mut self, path: &[String]) {
        if let Some(file) = self.items.file_of(&self.module, path, 0) {
            self.note(file, path.join("::"));
        }
    }

    fn method(&mut self, name: &str) {
        let Some(own) = &self.own else { return };
        let Some(files) = self.items.methods.get(&(own.clone(), name.to_owned())) else { return };
        if !files.contains(&self.file) {
            files.iter().for_each(|file| self.note(*file, format!("self.{name}()")));
        }
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if matches!(item.vis, syn::Visibility::Inherited) {
            imports_of(item).iter().for_each(|(_, path)| self.path(path));
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.own, self_type(item));
        visit::visit_item_impl(self, item);
        self.own = outer;
    }

    /// `pub(super)` names a module and uses nothing of it.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        match names.as_slice() {
            [own, function, ..] if own == "Self" => self.method(function),
            names => self.path(names),
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        if matches!(&*call.receiver, syn::Expr::Path(receiver) if receiver.path.is_ident("self")) {
            self.method(&call.method.to_string());
        }
        visit::visit_expr_method_call(self, call);
    }

    /// The arguments of most macros are expressions.
    fn visit_macro(&mut self, called: &'a syn::Macro) {
        type Arguments = syn::punctuated::Punctuated<syn::Expr, syn::Token![,]>;
        if let Ok(arguments) = called.parse_body_with(Arguments::parse_terminated) {
            // They are read here, and not kept for as long as the file.
            let mut inner = Finder {
                items: self.items,
                module: self.module.clone(),
                file: self.file,
                own: self.own.clone(),
                found: &mut *self.found,
            };
            arguments.iter().for_each(|argument| inner.visit_expr(argument));
        }
        visit::visit_macro(self, called);
    }
}

fn dependencies(files: &[(String, String)]) -> Dependencies {
    let parsed: Vec<syn::File> = files
        .iter()
        .map(|(file, text)| syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect();
    let mut items = Items::default();
    for (index, file) in parsed.iter().enumerate() {
        items.add(module_of(&files[index].0), index, &file.items);
    }
    let mut found = Dependencies::new();
    for (index, file) in parsed.iter().enumerate() {
        let module = module_of(&files[index].0);
        let mut finder = Finder { items: &items, module, file: index, own: None, found: &mut found };
        file.items.iter().for_each(|item| finder.visit_item(item));
    }
    found
}

/// The files that can be reached from each file.
fn reached(found: &Dependencies, from: usize) -> BTreeSet<usize> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        let further = found.keys().filter(|(user, _)| *user == file).map(|(_, used)| *used);
        next.extend(further.filter(|used| reached.insert(*used)));
    }
    reached
}

/// Files that depend on each other, and a line for each dependency among them.
fn circles(files: &[(String, String)]) -> Vec<(Vec<&str>, String)> {
    let found = dependencies(files);
    let reached: Vec<BTreeSet<usize>> = (0..files.len()).map(|file| reached(&found, file)).collect();
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for file in 0..files.len() {
        let circle: Vec<usize> =
            reached[file].iter().copied().filter(|other| reached[*other].contains(&file)).collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        let lines = found.iter().filter(|((user, used), _)| circle.contains(user) && circle.contains(used));
        let lines = lines.map(|((user, used), names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("  {} -> {}: {}\n", files[*user].0, files[*used].0, names.join(", "))
        });
        let mut names: Vec<&str> = circle.iter().map(|file| files[*file].0.as_str()).collect();
        names.sort_unstable();
        circles.push((names, lines.collect()));
    }
    circles
}

#[test]
fn files_of_src_depend_on_each_other_in_no_circle_but_the_known() {
    let mut files = sources::of_src();
    // The binary is another crate, and files of tests are test code.
    files.retain(|(name, _)| name != "src/main.rs" && !name.ends_with("/tests.rs"));
    let circles = circles(&files);
    let unknown: String = circles
        .iter()
        .filter(|(files, _)| !KNOWN.contains(&files.as_slice()))
        .map(|(files, lines)| format!("{} files depend on each other: {}\n{lines}", files.len(), files.join(" ")))
        .collect();
    assert!(unknown.is_empty(), "\n{unknown}");
    let gone: Vec<_> = KNOWN.iter().filter(|known| !circles.iter().any(|(files, _)| files == *known)).collect();
    assert!(gone.is_empty(), "these are no circles any more, take them off the list: {gone:?}");
}

/// The circles of planted files.
fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, String)> =
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    circles(&files).into_iter().map(|(files, _)| files.join(" ")).collect()
}

#[test]
fn planted_circle_is_found() {
    let lib = ("src/lib.rs", "pub mod a; pub mod b;");
    for (what, a, b) in [
        ("imports", "use crate::b::B; pub struct A;", "use crate::a::A; pub struct B;"),
        ("paths in code", "pub fn a() { crate::b::b() }", "pub fn b() { super::a::a() }"),
        ("types", "pub struct A(crate::b::B);", "pub struct B(Box<crate::a::A>);"),
        (
            "an import with another name",
            "use crate::b::B as X; pub struct A;",
            "use crate::a::{self as y}; pub struct B(y::A);",
        ),
        ("globs", "use crate::b::*; pub struct A(B);", "use crate::a::*; pub struct B(A);"),
        ("macros", "pub fn a() { assert!(crate::b::b(), \"{}\", 1) }", "pub fn b() -> bool { crate::a::a(); true }"),
    ] {
        assert_eq!(planted(&[lib, ("src/a.rs", a), ("src/b.rs", b)]), ["src/a.rs src/b.rs"], "{what}");
    }
}

#[test]
fn planted_circle_of_parent_and_child_is_found() {
    let lib = ("src/lib.rs", "pub mod a;");
    for (what, parent, child) in [
        ("a type of the parent", "mod c; pub struct A; fn f() { c::f() }", "use super::A; pub fn f(a: A) {}"),
        (
            "methods in two files",
            "mod c; pub struct A; impl A { fn f(&self) { self.g() } fn h(&self) {} }",
            "use super::A; impl A { pub fn g(&self) { self.h() } }",
        ),
        (
            "functions of a type in two files",
            "mod c; pub struct A; impl A { fn f() { Self::g() } }",
            "use super::A; impl A { pub fn g() {} }",
        ),
    ] {
        let circle = planted(&[lib, ("src/a.rs", parent), ("src/a/c.rs", child)]);
        assert_eq!(circle, ["src/a.rs src/a/c.rs"], "{what}");
    }
    let through = [
        lib,
        ("src/a.rs", "mod b; mod c; pub use b::B;"),
        ("src/a/b.rs", "pub struct B(super::c::C);"),
        ("src/a/c.rs", "use crate::a::B; pub struct C(Box<B>);"),
    ];
    assert_eq!(planted(&through), ["src/a/b.rs src/a/c.rs"], "through a re-export");
}

#[test]
fn dependency_that_only_goes_down_is_no_circle() {
    let lib = ("src/lib.rs", "pub mod a; pub mod b;");
    for (what, a, b) in [
        ("an import", "use crate::b::B; pub struct A(B);", "pub struct B;"),
        ("a visibility", "use crate::b::B; pub struct A(B);", "pub struct B; pub(in crate::a) fn f() {}"),
        ("test code", "use crate::b::B; pub struct A(B);", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
        ("a re-export", "pub use crate::b::B; pub struct A;", "use crate::a::A; pub struct B(A);"),
        ("another crate", "use serde::a; pub struct A;", "use tokio::a::A; pub struct B;"),
    ] {
        assert_eq!(planted(&[lib, ("src/a.rs", a), ("src/b.rs", b)]), Vec::<String>::new(), "{what}");
    }
}
