//! A trie of all operations by the segments of their paths. The cost of a lookup depends only on the length of the path.
//!
//! Fixed text is preferred to a parameter, from left to right, with backtracking if a branch leads to no operation. Backtracking
//! visits more than one node of a level only where fixed text and a parameter are alternatives, which is rare. The templates
//! bound the depth.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use http::Method;

use super::{
    operation::Operation,
    path_template::{Part, Template},
};
use crate::gateway::path::Segment;

/// The position of a node. The root is 0.
type NodeId = usize;

#[derive(Debug, Clone)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Only the policy table inserts keys, so the hash need not withstand collisions chosen by an attacker.
    literals: HashMap<String, NodeId, RandomState>,
    parameter: Option<NodeId>,
    /// The operations whose path ends here, one per method.
    operations: Vec<Arc<Operation>>,
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Lookup<'t> {
    Operation(&'t Arc<Operation>),
    /// Operations have this path, but not with this method.
    OtherMethod,
    Nothing,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Trie {
    /// Adds an operation. Returns the earlier operation of the same method and path, if there is one.
    pub(super) fn insert(&mut self, template: &Template<'_>, operation: &Arc<Operation>) -> Option<Arc<Operation>> {
        let mut at: NodeId = 0;
        for part in &template.parts {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match part {
                Part::Literal(text) => *node.literals.entry((*text).to_owned()).or_insert(next),
                Part::Parameter => *node.parameter.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        let operations = &mut self.nodes[at].operations;
        if let Some(earlier) = operations.iter().find(|earlier| earlier.method == operation.method) {
            return Some(Arc::clone(earlier));
        }
        operations.push(Arc::clone(operation));
        None
    }

    /// Finds the operation of a method and path. `text` returns the text of a segment.
    pub(super) fn find<S>(&self, method: &Method, segments: &[S], text: fn(&S) -> &str) -> Lookup<'_> {
        self.find_below(0, method, segments, text)
    }

    fn find_below<S>(&self, at: NodeId, method: &Method, segments: &[S], text: fn(&S) -> &str) -> Lookup<'_> {
        let node = &self.nodes[at];
        let Some((first, rest)) = segments.split_first() else {
            return match node.operations.iter().find(|operation| operation.method == *method) {
                Some(operation) => Lookup::Operation(operation),
                None if node.operations.is_empty() => Lookup::Nothing,
                None => Lookup::OtherMethod,
            };
        };
        let mut other_method = false;
        for next in node.literals.get(text(first)).copied().into_iter().chain(node.parameter) {
            match self.find_below(next, method, rest, text) {
                Lookup::Operation(operation) => return Lookup::Operation(operation),
                Lookup::OtherMethod => other_method = true,
                Lookup::Nothing => {}
            }
        }
        if other_method { Lookup::OtherMethod } else { Lookup::Nothing }
    }

    /// Whether a template that matches so far has the decoded text of an escaped segment as fixed text.
    pub(super) fn has_escaped_literal(&self, segments: &[Segment<'_>]) -> bool {
        self.has_escaped_literal_below(0, segments)
    }

    fn has_escaped_literal_below(&self, at: NodeId, segments: &[Segment<'_>]) -> bool {
        let node = &self.nodes[at];
        let Some((first, rest)) = segments.split_first() else { return false };
        if let Some(&next) = node.literals.get(first.decoded())
            && (first.is_escaped() || self.has_escaped_literal_below(next, rest))
        {
            return true;
        }
        node.parameter.is_some_and(|next| self.has_escaped_literal_below(next, rest))
    }
}
