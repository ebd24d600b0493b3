//! The operations arranged by the segments of their paths, so that finding one costs as much as the
//! path is long, however many there are.
//!
//! Owns the order of preference: fixed text before a parameter, from left to right, going back where
//! a preferred branch leads nowhere. Knows nothing of what escapes mean beyond "raw differs from
//! decoded". Going back can visit more than one node per level only where fixed text and a parameter
//! stand side by side, which is rare in the published table; the depth is bounded by the templates.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use http::Method;

use super::{
    operation::Operation,
    path_template::{Part, Template},
};
use crate::gateway::path::Segment;

/// Position of a node; 0 is the root.
type NodeId = usize;

#[derive(Debug, Clone)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Its keys are the policy table's, whatever is looked up: a quick hash will do.
    literals: HashMap<String, NodeId, RandomState>,
    parameter: Option<NodeId>,
    /// The operations whose path ends here, one per method.
    operations: Vec<Arc<Operation>>,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found<'t> {
    Operation(&'t Arc<Operation>),
    OtherMethod,
    Nothing,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Trie {
    /// Adds an operation, or returns the earlier one that leaves nothing for it to match.
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

    /// The preferred operation of a method on a path, whose segments are read by `text`.
    pub(super) fn find<S>(&self, method: &Method, segments: &[S], text: fn(&S) -> &str) -> Found<'_> {
        self.find_below(0, method, segments, text)
    }

    fn find_below<S>(&self, at: NodeId, method: &Method, segments: &[S], text: fn(&S) -> &str) -> Found<'_> {
        let node = &self.nodes[at];
        let Some((first, rest)) = segments.split_first() else {
            return match node.operations.iter().find(|operation| operation.method == *method) {
                Some(operation) => Found::Operation(operation),
                None if node.operations.is_empty() => Found::Nothing,
                None => Found::OtherMethod,
            };
        };
        let mut other_method = false;
        for next in node.literals.get(text(first)).copied().into_iter().chain(node.parameter) {
            match self.find_below(next, method, rest, text) {
                Found::Operation(operation) => return Found::Operation(operation),
                Found::OtherMethod => other_method = true,
                Found::Nothing => {}
            }
        }
        if other_method { Found::OtherMethod } else { Found::Nothing }
    }

    /// Whether any template that the path could follow has, in place of an escaped segment, the fixed
    /// text that it stands for.
    pub(super) fn escapes_literal(&self, segments: &[Segment<'_>]) -> bool {
        self.escapes_literal_below(0, segments)
    }

    fn escapes_literal_below(&self, at: NodeId, segments: &[Segment<'_>]) -> bool {
        let node = &self.nodes[at];
        let Some((first, rest)) = segments.split_first() else { return false };
        if let Some(&next) = node.literals.get(first.decoded())
            && (first.is_escaped() || self.escapes_literal_below(next, rest))
        {
            return true;
        }
        node.parameter.is_some_and(|next| self.escapes_literal_below(next, rest))
    }
}
