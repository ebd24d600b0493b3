//! The table of published operations, and the operation that a request means.
//!
//! The table knows the credentials that each operation accepts. It does not verify tokens.

use std::sync::OnceLock;

/// One published operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// For example `shopper-baskets-v1.createBasket`.
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    segments: Vec<&'static str>,
    /// Alternative credentials, one of which is required; empty where SLAS decides itself.
    pub(crate) accepts: Vec<Acceptance>,
}

/// One kind of token with scopes, any one of which is enough.
#[derive(Debug)]
pub(crate) struct Acceptance {
    pub(crate) kind: TokenKind,
    pub(crate) scopes: Vec<&'static str>,
}

/// The issuer of the token and the flow mark that it must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Shopper,
    ShopperTsob,
    ShopperTaob,
    System,
    /// Account Manager's; the roles of its client decide, and the words of the acceptance are roles.
    SystemByRole,
}

/// The operation of a method and path.
pub(crate) enum Found {
    Operation(&'static Operation, Vec<(&'static str, String)>),
    /// The path exists, but not with this method.
    OtherMethod,
    Nothing,
}

/// The whole table.
pub(crate) fn operations() -> &'static [Operation] {
    static TABLE: OnceLock<Vec<Operation>> = OnceLock::new();
    TABLE.get_or_init(|| include_str!("../operations.tsv").lines().filter_map(parse).collect())
}

fn parse(line: &'static str) -> Option<Operation> {
    let mut columns = line.split('\t');
    let (name, method) = (columns.next()?, columns.next()?);
    let (path, accepts) = (columns.next()?, columns.next()?);
    Some(Operation {
        name,
        method,
        segments: path.split('/').skip(1).collect(),
        accepts: accepts.split(';').filter_map(acceptance).collect(),
    })
}

fn acceptance(text: &'static str) -> Option<Acceptance> {
    let mut words = text.split_whitespace();
    let kind = match words.next()? {
        "shopper" => TokenKind::Shopper,
        "shopper-tsob" => TokenKind::ShopperTsob,
        "shopper-taob" => TokenKind::ShopperTaob,
        "system" => TokenKind::System,
        "roles" => TokenKind::SystemByRole,
        _ => return None,
    };
    Some(Acceptance { kind, scopes: words.collect() })
}

/// Finds the operation. Where several paths match, the one with most literal segments wins.
pub(crate) fn find(method: &str, path: &[String]) -> Found {
    let candidates = operations().iter();
    let mut matching: Vec<_> = candidates.filter_map(|operation| bind(operation, path)).collect();
    let Some(literals) = matching.iter().map(|(_, literals, _)| *literals).max() else {
        return Found::Nothing;
    };
    matching.retain(|(operation, count, _)| *count == literals && operation.method == method);
    match matching.pop() {
        Some((operation, _, variables)) => Found::Operation(operation, variables),
        None => Found::OtherMethod,
    }
}

type Binding = (&'static Operation, usize, Vec<(&'static str, String)>);

fn bind(operation: &'static Operation, path: &[String]) -> Option<Binding> {
    if operation.segments.len() != path.len() {
        return None;
    }
    let mut variables = Vec::new();
    let mut literals = 0;
    for (expected, actual) in operation.segments.iter().zip(path) {
        let variable = expected.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match variable {
            Some(name) if !actual.is_empty() => variables.push((name, actual.clone())),
            None if expected == actual => literals += 1,
            _ => return None,
        }
    }
    Some((operation, literals, variables))
}

/// Every scope of the table that a token of the given family can carry.
pub(crate) fn scopes(system: bool) -> Vec<&'static str> {
    let acceptances = operations().iter().flat_map(|operation| &operation.accepts);
    let mut scopes: Vec<_> = acceptances
        .filter(|acceptance| acceptance.kind != TokenKind::SystemByRole)
        .filter(|acceptance| (acceptance.kind == TokenKind::System) == system)
        .flat_map(|acceptance| acceptance.scopes.iter().copied())
        .collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn operation_table_is_complete() {
        assert_eq!(operations().len(), 438);
        let undecided = operations().iter().filter(|one| one.accepts.is_empty());
        assert!(undecided.clone().count() > 0);
        assert!(undecided.into_iter().all(|one| one.name.starts_with("auth.")));
    }

    #[test]
    fn literal_segments_win_over_variables() {
        let base = "/customer/shopper-customers/v1/organizations/f/customers";
        let Found::Operation(found, _) = find("GET", &path(&format!("{base}/external-profile"))) else {
            panic!("not found");
        };
        assert_eq!(found.name, "shopper-customers.getExternalProfile");
        let Found::Operation(found, variables) = find("GET", &path(&format!("{base}/abc"))) else {
            panic!("not found");
        };
        assert_eq!(found.name, "shopper-customers.getCustomer");
        assert_eq!(variables[1], ("customerId", "abc".to_owned()));
    }

    #[test]
    fn deprecated_logins_match_no_operation() {
        let base = "/customer/shopper-customers/v1/organizations/f/customers";
        for (method, rest) in
            [("POST", "actions/login"), ("DELETE", "actions/logout"), ("POST", "trusted-system/actions/login")]
        {
            let found = find(method, &path(&format!("{base}/{rest}")));
            assert!(matches!(found, Found::Nothing), "{rest}");
        }
    }
}
