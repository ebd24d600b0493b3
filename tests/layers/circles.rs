//! Files of `src/` depend on each other in no circle, inside modules too.

use std::collections::BTreeSet;

use crate::{
    dependencies::{self, Dependencies},
    paths::{self, Source},
    sources,
};

/// The files that can be reached from each file.
fn reached(found: &Dependencies, from: usize) -> BTreeSet<usize> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        let further = found.keys().filter(|(user, _)| *user == file).map(|(_, used)| *used);
        next.extend(further.filter(|used| reached.insert(*used)));
    }
    reached
}

/// Returns the groups of files that depend on each other, with a line for each dependency among them.
fn circles(sources: &[Source]) -> Vec<(Vec<&str>, String)> {
    let found = dependencies::between(sources);
    let reached: Vec<BTreeSet<usize>> = (0..sources.len()).map(|file| reached(&found, file)).collect();
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for file in 0..sources.len() {
        let circle: Vec<usize> =
            reached[file].iter().copied().filter(|other| reached[*other].contains(&file)).collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        let lines = found.iter().filter(|((user, used), _)| circle.contains(user) && circle.contains(used));
        let lines = lines.map(|((user, used), names)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("  {} -> {}: {}\n", sources[*user].file, sources[*used].file, names.join(", "))
        });
        let mut names: Vec<&str> = circle.iter().map(|file| sources[*file].file.as_str()).collect();
        names.sort_unstable();
        circles.push((names, lines.collect()));
    }
    circles
}

#[test]
fn files_of_src_depend_in_no_circle() {
    let circles: String = circles(&paths::parsed(&sources::of_src()))
        .iter()
        .map(|(files, lines)| format!("{} files depend on each other: {}\n{lines}", files.len(), files.join(" ")))
        .collect();
    assert!(circles.is_empty(), "\n{circles}");
}

/// The circles of planted files.
fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, String)> =
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    circles(&paths::parsed(&files)).into_iter().map(|(files, _)| files.join(" ")).collect()
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
        ("macros of other syntax", "pub fn a() { m!(x => crate::b::b()) }", "pub fn b() { m!(x => crate::a::a()) }"),
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
