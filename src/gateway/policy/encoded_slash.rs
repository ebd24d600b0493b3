//! The rule for encoded slashes in paths.
//!
//! An encoded slash is allowed only in a parameter of free text. A server that decodes it must not find another operation.

use std::sync::Arc;

use super::{
    operation::Operation,
    trie::{Lookup, Trie},
};
use crate::gateway::path::{PathError, Segment};

/// Checks the encoded slashes of a path that leads to an operation.
///
/// # Errors
/// [`PathError::EncodedSlash`] if a slash is outside of free text, [`PathError::SecondReading`] if the path with decoded slashes is
/// another operation's.
pub(super) fn check(trie: &Trie, operation: &Arc<Operation>, segments: &[Segment<'_>]) -> Result<(), PathError> {
    let is_free_text = |position| operation.parameters.iter().any(|own| own.position == position && own.free_text);
    if segments.iter().enumerate().any(|(position, segment)| segment.has_encoded_slash() && !is_free_text(position)) {
        return Err(PathError::EncodedSlash);
    }
    let decoded: Vec<String> = segments.iter().map(Segment::fully_decoded).collect();
    let pieces: Vec<&str> = decoded.iter().flat_map(|text| text.split('/')).filter(|piece| !piece.is_empty()).collect();
    match trie.find(&operation.method, &pieces, |piece| *piece) {
        Lookup::Operation(other) if !Arc::ptr_eq(other, operation) => Err(PathError::SecondReading),
        Lookup::Operation(_) | Lookup::OtherMethod | Lookup::Nothing => Ok(()),
    }
}
