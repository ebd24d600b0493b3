//! Domains below which anyone can get a host.

/// Parts of two-letter domains below which registries sell names: `co.uk`, `com.br`.
const REGISTRY_LABELS: [&str; 12] = ["ac", "co", "com", "edu", "gob", "gouv", "gov", "ne", "net", "or", "org", "sch"];
/// Domains below which a hosting service gives names to anyone.
const HOSTING_DOMAINS: [&str; 40] = [
    "amazonaws.com",
    "appspot.com",
    "azurestaticapps.net",
    "azurewebsites.net",
    "blogspot.com",
    "cloudfront.net",
    "codesandbox.io",
    "commercecloud.salesforce.com",
    "csb.app",
    "demandware.net",
    "dev-preview.salesforce.com",
    "exp-delivery.com",
    "firebaseapp.com",
    "fly.dev",
    "force.com",
    "github.dev",
    "github.io",
    "gitlab.io",
    "gitpod.io",
    "herokuapp.com",
    "loca.lt",
    "mobify-storefront.com",
    "my.site.com",
    "myshopify.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "replit.dev",
    "run.app",
    "stackblitz.io",
    "surge.sh",
    "trycloudflare.com",
    "vercel.app",
    "web.app",
    "webcontainer.io",
    "webflow.io",
    "workers.dev",
];

/// Whether anyone can get a host directly below a domain. The lists hold the domains that merchants meet; they are not complete.
pub(super) fn is_shared(domain: &str) -> bool {
    let is_registry = domain.split_once('.').is_some_and(|(label, country)| {
        country.len() == 2 && !country.contains('.') && REGISTRY_LABELS.contains(&label)
    });
    let is_below =
        |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    is_registry || HOSTING_DOMAINS.into_iter().any(is_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_domains_are_recognized() {
        for domain in ["co.uk", "com.br", "ne.jp", "github.io", "vercel.app", "mobify-storefront.com", "eu.force.com"] {
            assert!(is_shared(domain), "{domain}");
        }
        for domain in ["shop.example", "shop.co.uk", "notgithub.io", "co.example", "web.de"] {
            assert!(!is_shared(domain), "{domain}");
        }
    }
}
