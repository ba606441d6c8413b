//! The access decision: one pure function that says yes or no, and why.
//!
//! Dispatch, discovery and the operator's `acl why` all call [`decide`], so
//! they cannot disagree.

use std::fmt;

use alknet_plugin_api::{AccessControl, CallError, Identity};

use super::ownership::OwnershipProvider;

/// What a call's input says of the resource it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The operation declares no resource id.
    Undeclared,
    /// There is no input to look into, as in discovery.
    Unknown,
    /// The input's resource id.
    Id(&'a str),
    /// The input lacks the declared id, or holds something else than a string.
    Missing,
}

/// The rule that allowed a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The operation is open to everybody.
    Unrestricted,
    /// The identity holds the scopes, and no resource is involved.
    Scopes,
    /// The identity owns the resource.
    Owner,
    /// The identity's own resource list names the action.
    ResourceList,
}

/// The rule that refused a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// Nobody is authenticated.
    AuthenticationRequired,
    /// This scope is not held.
    MissingScope(String),
    /// None of these scopes is held.
    MissingAnyScope(Vec<String>),
    /// The input has no resource id to decide by.
    MissingResourceId,
    /// The resource belongs to somebody else.
    NotOwner {
        /// The resource's type.
        resource_type: String,
    },
    /// The identity's resource list does not allow it.
    NoResourceRight {
        /// The resource's type, where the operation names one.
        resource_type: Option<String>,
        /// The action, where the operation names one.
        action: Option<String>,
    },
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unrestricted => "the operation is unrestricted",
            Self::Scopes => "every required scope is held",
            Self::Owner => "the resource is owned",
            Self::ResourceList => "the identity's resources allow it",
        })
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthenticationRequired => f.write_str("authentication required"),
            Self::MissingScope(scope) => write!(f, "missing required scope: {scope}"),
            Self::MissingAnyScope(scopes) => {
                write!(f, "missing one of the scopes: {}", scopes.join(", "))
            }
            Self::MissingResourceId => f.write_str("the input has no resource id"),
            Self::NotOwner { resource_type } => {
                write!(f, "no ownership of a resource of type {resource_type}")
            }
            Self::NoResourceRight { resource_type, action } => {
                f.write_str("no right")?;
                if let Some(action) = action {
                    write!(f, " to {action}")?;
                }
                match resource_type {
                    Some(resource_type) => write!(f, " on resources of type {resource_type}"),
                    None => f.write_str(" on any resource"),
                }
            }
        }
    }
}

impl From<Denied> for CallError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::MissingResourceId => Self::invalid_input(denied.to_string()),
            _ => Self::forbidden(denied.to_string()),
        }
    }
}

/// Whether `access` restricts anything at all.
pub fn is_unrestricted(access: &AccessControl) -> bool {
    access.required_scopes.is_empty()
        && access.required_scopes_any.is_none()
        && access.resource_type.is_none()
        && access.resource_action.is_none()
}

/// Decides whether `identity` may use an operation with this `access`.
///
/// # Errors
/// The first rule that refuses.
pub fn decide(
    access: &AccessControl,
    identity: Option<&Identity>,
    resource: Resource<'_>,
    ownership: Option<&dyn OwnershipProvider>,
) -> Result<Allowed, Denied> {
    if is_unrestricted(access) {
        return Ok(Allowed::Unrestricted);
    }
    let identity = identity.ok_or(Denied::AuthenticationRequired)?;
    let holds = |scope: &String| identity.scopes.contains(scope);
    if let Some(scope) = access.required_scopes.iter().find(|scope| !holds(scope)) {
        return Err(Denied::MissingScope(scope.clone()));
    }
    if let Some(any) = &access.required_scopes_any
        && !any.iter().any(holds)
    {
        return Err(Denied::MissingAnyScope(any.clone()));
    }
    if resource == Resource::Missing {
        return Err(Denied::MissingResourceId);
    }
    let action = access.resource_action.as_deref();
    if let (Some(resource_type), Some(ownership)) = (&access.resource_type, ownership)
        && ownership.keeps(resource_type)
    {
        let owns = match resource {
            Resource::Id(id) => ownership.owns(identity, resource_type, id, action),
            _ => ownership.owns_any(identity, resource_type),
        };
        return if owns {
            Ok(Allowed::Owner)
        } else {
            Err(Denied::NotOwner { resource_type: resource_type.clone() })
        };
    }
    let listed = |actions: &Vec<String>| match action {
        Some(action) => actions.iter().any(|held| held == action),
        None => !actions.is_empty(),
    };
    let allowed = match (&access.resource_type, action) {
        (None, None) => return Ok(Allowed::Scopes),
        (Some(resource_type), _) => identity.resources.get(resource_type).is_some_and(listed),
        (None, Some(_)) => identity.resources.values().any(listed),
    };
    if allowed {
        Ok(Allowed::ResourceList)
    } else {
        Err(Denied::NoResourceRight {
            resource_type: access.resource_type.clone(),
            action: access.resource_action.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;

    use super::super::ownership::{MemoryOwnership, OwnershipStore};
    use super::*;

    fn identity(scopes: &[&str], resources: &[(&str, &[&str])]) -> Identity {
        Identity {
            id: "dora".into(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            resources: resources
                .iter()
                .map(|(kind, actions)| {
                    (kind.to_string(), actions.iter().map(ToString::to_string).collect())
                })
                .collect::<BTreeMap<_, Vec<String>>>(),
        }
    }

    fn scopes(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn full() -> AccessControl {
        AccessControl {
            required_scopes: scopes(&["a", "b"]),
            required_scopes_any: Some(scopes(&["c", "d"])),
            resource_type: Some("note".into()),
            resource_action: Some("read".into()),
        }
    }

    #[test]
    fn c24_only_the_unrestricted_is_open_to_the_anonymous() {
        let open = decide(&AccessControl::default(), None, Resource::Undeclared, None);
        assert_eq!(open, Ok(Allowed::Unrestricted));
        let denied = decide(&full(), None, Resource::Undeclared, None).unwrap_err();
        assert_eq!(denied.to_string(), "authentication required");
    }

    #[test]
    fn c25_each_step_denies_before_the_next() {
        let access = full();
        let check = |identity: &Identity, resource| {
            decide(&access, Some(identity), resource, None).map_err(|denied| denied.to_string())
        };
        let missing = Resource::Missing;
        assert_eq!(
            check(&identity(&[], &[]), missing),
            Err("missing required scope: a".to_owned())
        );
        assert_eq!(
            check(&identity(&["a"], &[]), missing),
            Err("missing required scope: b".to_owned())
        );
        assert_eq!(
            check(&identity(&["a", "b"], &[]), missing),
            Err("missing one of the scopes: c, d".to_owned())
        );
        let scoped = identity(&["a", "b", "d"], &[]);
        assert_eq!(check(&scoped, missing), Err("the input has no resource id".to_owned()));
        assert_eq!(
            check(&scoped, Resource::Id("n1")),
            Err("no right to read on resources of type note".to_owned())
        );
        let listed = identity(&["a", "b", "d"], &[("note", &["write", "read"])]);
        assert_eq!(check(&listed, Resource::Id("n1")), Ok(Allowed::ResourceList));
    }

    #[test]
    fn c25_an_empty_alternative_cannot_be_satisfied() {
        let access =
            AccessControl { required_scopes_any: Some(Vec::new()), ..AccessControl::default() };
        let somebody = identity(&["a"], &[]);
        let denied = decide(&access, Some(&somebody), Resource::Undeclared, None);
        assert_eq!(denied, Err(Denied::MissingAnyScope(Vec::new())));
    }

    #[test]
    fn c25_scopes_alone_suffice_without_a_resource() {
        let access = AccessControl { required_scopes: scopes(&["a"]), ..AccessControl::default() };
        let allowed = decide(&access, Some(&identity(&["a"], &[])), Resource::Undeclared, None);
        assert_eq!(allowed, Ok(Allowed::Scopes));
    }

    #[test]
    fn c25_ownership_is_final() {
        let store = MemoryOwnership::default();
        store.record("dora", "note", "n1").now_or_never().unwrap().unwrap();
        let access = AccessControl { resource_type: Some("note".into()), ..Default::default() };
        let owner = identity(&[], &[]);
        let check = |who: &Identity, resource| decide(&access, Some(who), resource, Some(&store));
        assert_eq!(check(&owner, Resource::Id("n1")), Ok(Allowed::Owner));
        assert!(check(&owner, Resource::Id("n2")).is_err());
        assert_eq!(check(&owner, Resource::Undeclared), Ok(Allowed::Owner));
        assert_eq!(check(&owner, Resource::Unknown), Ok(Allowed::Owner));
        let mut listed = identity(&[], &[("note", &["read"])]);
        listed.id = "emil".into();
        assert!(check(&listed, Resource::Id("n1")).is_err(), "static lists are not consulted");
    }

    #[test]
    fn c25_static_lists_by_type_by_action_and_by_both() {
        let access = |kind: Option<&str>, action: Option<&str>| AccessControl {
            resource_type: kind.map(Into::into),
            resource_action: action.map(Into::into),
            ..Default::default()
        };
        let reader = identity(&[], &[("note", &["read"]), ("task", &[])]);
        let check = |access| decide(&access, Some(&reader), Resource::Undeclared, None).is_ok();
        assert!(check(access(Some("note"), None)));
        assert!(!check(access(Some("task"), None)), "an empty list gives no right");
        assert!(!check(access(Some("file"), None)));
        assert!(check(access(Some("note"), Some("read"))));
        assert!(!check(access(Some("note"), Some("write"))));
        assert!(check(access(None, Some("read"))));
        assert!(!check(access(None, Some("write"))));
    }

    #[test]
    fn c26_a_missing_id_is_invalid_input_and_never_owns_any() {
        let store = MemoryOwnership::default();
        store.record("dora", "note", "n1").now_or_never().unwrap().unwrap();
        let access = AccessControl { resource_type: Some("note".into()), ..Default::default() };
        let owner = identity(&[], &[]);
        let denied = decide(&access, Some(&owner), Resource::Missing, Some(&store)).unwrap_err();
        assert_eq!(CallError::from(denied).code, "INVALID_INPUT");
    }
}
