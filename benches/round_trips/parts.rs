//! What `hot_path` measured of the pieces: criterion leaves it in the build's folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The median of each piece, nanoseconds.
pub fn of_last_run(target: &Path) -> BTreeMap<String, f64> {
    let folders = fs::read_dir(target.join("criterion")).into_iter().flatten().flatten();
    folders.filter_map(|folder| piece(folder.path().join("new"))).collect()
}

fn piece(folder: PathBuf) -> Option<(String, f64)> {
    let read = |name: &str| -> Option<Value> { serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok() };
    let name = read("benchmark.json")?["title"].as_str()?.to_owned();
    Some((name, read("estimates.json")?["median"]["point_estimate"].as_f64()?))
}
