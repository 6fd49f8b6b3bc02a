//! Reads the identities that the proxy signs in with: `identity`, the default one, and `identities`, by
//! name.

use super::cloud::cloud;
use super::cloud::Cloud;
use super::identity::{audience, identity, KINDS};
use super::names::Names;
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::types::{Credential, Identity};
use super::value;
use crate::base::json::Node;

/// The name of the identity of the field `identity`, in metrics and logs.
const DEFAULT: &str = "default";

/// The fields of an identity: its one kind, and what overrides the document's values.
const FIELDS: [&str; 6] =
    ["managed_identity", "app_service", "workload_identity", "client_secret", "cloud", "audience"];

/// The document's identities, right or wrong.
pub(super) struct Credentials {
    /// By position; `None` where a problem is recorded. The default one is the first.
    pub(super) all: Vec<Option<Credential>>,
    /// Whether there is a default one, right or wrong.
    has_default: bool,
    /// The names that backends may refer to.
    names: Names,
}

/// The document's values for all identities that do not override them.
#[derive(Default)]
struct Common {
    cloud: Cloud,
    audience: Option<String>,
}

impl Common {
    fn read(reader: &mut Reader, object: Object<'_>, otherwise: &Self) -> Self {
        let cloud = reader.optional(object, "cloud", cloud);
        let audience = reader.optional(object, "audience", audience);
        Self {
            // The audience of another cloud does not apply to this one.
            audience: audience.or_else(|| match cloud {
                Some(cloud) if cloud != otherwise.cloud => None,
                _ => otherwise.audience.clone(),
            }),
            cloud: cloud.unwrap_or(otherwise.cloud),
        }
    }
}

/// Reads `identity` and `identities` of the whole document.
pub(super) fn credentials(reader: &mut Reader, object: Object<'_>) -> Credentials {
    let common = Common::read(reader, object, &Common::default());
    let mut all = Vec::new();
    let mut names = Names::new("identities", "name");
    let has_default = object.field("identity").is_some() || object.field("identities").is_none();
    if has_default {
        const EXPECTED: &str = "how the proxy signs in to Azure";
        all.push(reader.required(object, "identity", EXPECTED, |reader, node| {
            credential(reader, DEFAULT, node, &common)
        }));
    }
    reader.optional(object, "identities", |reader, node| {
        let named = node.as_object().or_else(|| reader.wrong_kind(node, "an object"))?;
        if named.is_empty() {
            reader.problem("found no identity; expected at least one, by its name");
        }
        for (name, node) in named {
            reader.at_field(name, |reader| {
                if !value::is_name(name) {
                    reader.problem(format!("found this name; expected {}", value::NAME));
                } else if name == DEFAULT {
                    reader.problem("found the name of the field identity; expected another one");
                } else if names.has(name) {
                    reader.problem("given twice; keep one");
                } else {
                    names.declare(reader, name, all.len());
                }
                all.push(credential(reader, name, node, &common));
            });
        }
        Some(())
    });
    Credentials { all, has_default, names }
}

impl Credentials {
    /// The position of the one that a backend signs in with: by the name that it gives, or the default
    /// one.
    pub(super) fn position(&self, reader: &mut Reader, object: Object<'_>) -> Option<usize> {
        if object.field("identity").is_some() {
            return reader.optional(object, "identity", |reader, node| {
                let name = reader.string(node)?;
                match name {
                    DEFAULT if self.has_default => Some(0),
                    _ if self.names.is_empty() => {
                        let found = quoted(name);
                        reader
                            .problem(format!("found {found}, but the document has no identities"));
                        None
                    }
                    _ => self.names.resolve(reader, name),
                }
            });
        }
        if !self.has_default {
            reader.at_field("identity", |reader| {
                reader.problem(
                    "missing; expected the name of one of the document's identities, because there is \
                     no default one (the field identity)",
                );
            });
        }
        self.has_default.then_some(0)
    }

    /// The identity that uses a cluster to sign in, if there is one.
    pub(super) fn user_of(&self, cluster: &str) -> Option<String> {
        let mut all = self.all.iter().flatten();
        let found = all.find(|one| one.identity.clusters().contains(&cluster))?;
        Some(match found.name.as_str() {
            DEFAULT => "the identity".to_owned(),
            name => format!("identities.{name}"),
        })
    }
}

/// Reads an identity: an object with its one kind, and what overrides the document's values.
fn credential(
    reader: &mut Reader,
    name: &str,
    node: &Node,
    otherwise: &Common,
) -> Option<Credential> {
    let object = reader.object(node, &FIELDS)?;
    let common = Common::read(reader, object, otherwise);
    let mut given = KINDS.into_iter().filter_map(|kind| Some((kind, object.field(kind)?)));
    let (first, others) = (given.next(), given.count());
    // A mistyped kind is recorded already.
    if others > 0 || first.is_none() && object.names().all(|name| FIELDS.contains(&name)) {
        let count = others + usize::from(first.is_some());
        let known = KINDS.join(", ");
        reader
            .problem(format!("found {count} kinds of identity; expected exactly one of: {known}"));
    }
    let (kind, node) = first?;
    let identity = reader.at_field(kind, |reader| identity(reader, kind, node, common.cloud))?;
    let audience = common.audience.unwrap_or_else(|| common.cloud.audience());
    check_clouds(reader, &identity, &audience);
    Some(Credential { name: name.to_owned(), identity, audience })
}

/// A cloud's Entra ID has no tokens for another one.
fn check_clouds(reader: &mut Reader, identity: &Identity, audience: &str) {
    let Identity::Application(application) = identity else {
        return;
    };
    let of_audience = Cloud::of_host(audience);
    let of_authority = Cloud::of_authority(&application.authority);
    if let (Some(theirs), Some(ours)) = (of_audience, of_authority) {
        if theirs != ours {
            let (authority, audience) = (quoted(&application.authority), quoted(audience));
            reader.problem(format!(
                "{authority} gives tokens for {}, and the audience {audience} belongs to {}; expected \
                 both of one cloud: cloud: {} or cloud: {} sets both",
                ours.name(),
                theirs.name(),
                ours.word(),
                theirs.word(),
            ));
        }
    }
}
