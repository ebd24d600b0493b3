//! The files whose items a file uses.
//!
//! `use`, paths in code, `super::` and re-exports are followed, and so are calls of `self.method()` and `Self::function()` whose
//! `impl` block is in another file. `mod child;` and `pub use child::Item` are no dependencies: a parent may show the items of
//! its children. Test code does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::paths::{self, Kind, ModulePath, NamedPath, Source, imports_of, is_test, module_of, self_type};

/// The meaning of a name inside a module.
#[derive(Debug, Clone)]
enum Binding {
    /// An item of this file.
    Item(usize),
    Module(ModulePath),
    /// The path of an import.
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

/// The names of one file that another uses, by the pair of the user and the used.
pub(crate) type Dependencies = BTreeMap<(usize, usize), BTreeSet<String>>;

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
                    for import in imports_of(item) {
                        match import.name {
                            Some(name) => drop(own.names.entry(name).or_insert(Binding::Import(import.path))),
                            None => own.globs.push(import.path),
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

    /// Returns the file with the item that a path names inside a module; `None` for modules and for items of other crates.
    fn file_of(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<usize> {
        let (mut module, mut rest) = (module.clone(), path);
        // An import that resolves to itself names another crate.
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

    /// Returns the files with the item or the function that a path names.
    fn used_by(&self, named: &NamedPath) -> Vec<usize> {
        match &named.kind {
            Kind::ReExport => Vec::new(),
            Kind::Import | Kind::Code => {
                let path = named.path.strip_suffix(&["*".to_owned()]).unwrap_or(&named.path);
                self.file_of(&named.module, path, 0).into_iter().collect()
            }
            Kind::OwnFunction(own) => {
                let files = self.methods.get(&(own.clone(), named.path[0].clone()));
                files.into_iter().flatten().copied().collect()
            }
        }
    }
}

/// Returns the dependencies between files, which are named by their positions in the list.
pub(crate) fn between(sources: &[Source]) -> Dependencies {
    let mut items = Items::default();
    for (index, source) in sources.iter().enumerate() {
        items.add(module_of(&source.file), index, &source.syntax.items);
    }
    let mut found = Dependencies::new();
    for (user, source) in sources.iter().enumerate() {
        for named in paths::named_in(source).iter().filter(|named| !named.is_in_test) {
            let files = items.used_by(named);
            if files.contains(&user) {
                continue;
            }
            let name = match named.kind {
                Kind::OwnFunction(_) => format!("Self::{}", named.path[0]),
                _ => named.path.join("::"),
            };
            for used in files {
                found.entry((user, used)).or_default().insert(name.clone());
            }
        }
    }
    found
}
