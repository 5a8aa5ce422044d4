//! The allow-list: what may be asked for, and where it really goes.

use http::uri::PathAndQuery;
use http::{Method, Uri};

use crate::GatewayError;
use crate::binary_http::InnerRequest;
use crate::config::TargetSettings;
use crate::problems::Failure;

pub(crate) struct Targets(Vec<Target>);

struct Target {
    scheme: String,
    authority: String,
    methods: Vec<Method>,
    path_prefix: String,
    forward_to: Uri,
}

/// What can be asked of a target; `CONNECT` and `TRACE` make no sense through a gateway.
const KNOWN: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl Targets {
    pub(crate) fn new(settings: &[TargetSettings]) -> Result<Self, GatewayError> {
        if settings.is_empty() {
            return Err(GatewayError::Target);
        }
        settings
            .iter()
            .map(Target::new)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Where the document at `path` is that is shown in the open, if a target gives it out.
    pub(crate) fn public(&self, path: &str) -> Option<Uri> {
        let target = self
            .0
            .iter()
            .find(|target| target.methods.contains(&Method::GET) && target.covers(path))?;
        target.at(path)
    }

    /// Where requests go: scheme and authority.
    pub(crate) fn bases(&self) -> impl Iterator<Item = Uri> {
        self.0.iter().map(|target| target.forward_to.clone())
    }

    /// Whether `request` is for the origin of a listed target, whatever its path.
    pub(crate) fn lists_origin_of(&self, request: &InnerRequest) -> bool {
        self.0.iter().any(|target| target.is_at_origin_of(request))
    }

    /// Where `request` goes, if it may go anywhere.
    pub(crate) fn locate(&self, request: &InnerRequest) -> Result<Uri, Failure> {
        let mut targets = self.0.iter().filter(|target| target.matches(request));
        let url = targets.find_map(|target| target.at(&request.path));
        url.ok_or(Failure::TargetNotAllowed)
    }
}

impl Target {
    fn new(settings: &TargetSettings) -> Result<Self, GatewayError> {
        let forward_to: Uri = settings
            .forward_to
            .parse()
            .map_err(|_| GatewayError::Target)?;
        let methods: Result<Vec<_>, _> = settings
            .methods
            .iter()
            .map(|name| Method::from_bytes(name.as_bytes()))
            .collect();
        let methods = methods.map_err(|_| GatewayError::Target)?;
        let are_known = methods.iter().all(|method| KNOWN.contains(method));
        // A URL of this library has no fragment, and no user that it would leave out.
        let is_base = matches!(forward_to.scheme_str(), Some("http" | "https"))
            && forward_to.path() == "/"
            && forward_to.query().is_none()
            && !settings.forward_to.contains(['#', '@']);
        if !is_base || methods.is_empty() || !are_known || !settings.path_prefix.starts_with('/') {
            return Err(GatewayError::Target);
        }
        Ok(Self {
            scheme: settings.scheme.clone(),
            authority: settings.authority.clone(),
            methods,
            path_prefix: settings.path_prefix.clone(),
            forward_to,
        })
    }

    /// Whatever a parser makes of a path, only the one that was checked is asked for.
    fn at(&self, path: &str) -> Option<Uri> {
        let mut parts = self.forward_to.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        let url = Uri::from_parts(parts).ok()?;
        (url.path() == path && url.query().is_none()).then_some(url)
    }

    fn matches(&self, request: &InnerRequest) -> bool {
        self.is_at_origin_of(request)
            && self.methods.contains(&request.method)
            && self.covers(&request.path)
    }

    fn is_at_origin_of(&self, request: &InnerRequest) -> bool {
        request.scheme.eq_ignore_ascii_case(&self.scheme)
            && request.authority.eq_ignore_ascii_case(&self.authority)
    }

    /// A prefix ends where a segment ends: `/v1` covers `/v1` and `/v1/x`, not `/v10`.
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&self.path_prefix).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('/') || self.path_prefix.ends_with('/')
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn targets(path_prefix: &str) -> Targets {
        Targets::new(&[TargetSettings {
            scheme: "https".into(),
            authority: "ds.example".into(),
            methods: vec!["POST".into()],
            path_prefix: path_prefix.into(),
            forward_to: "http://127.0.0.1:9".into(),
        }])
        .unwrap()
    }

    #[test]
    fn a_list_that_allows_nothing_is_a_mistake() {
        let with = |methods: &[&str]| {
            Targets::new(&[TargetSettings {
                scheme: "https".into(),
                authority: "ds.example".into(),
                methods: methods.iter().map(|&name| name.to_owned()).collect(),
                path_prefix: "/v1".into(),
                forward_to: "http://127.0.0.1:9".into(),
            }])
        };
        assert!(with(&["GET", "POST"]).is_ok());
        for methods in [&[][..], &["GTE"], &["get"], &["CONNECT"]] {
            assert!(with(methods).is_err(), "{methods:?}");
        }
        assert!(Targets::new(&[]).is_err());
    }

    fn request(method: Method, scheme: &str, authority: &str, path: &str) -> InnerRequest {
        InnerRequest {
            method,
            scheme: scheme.into(),
            authority: authority.into(),
            path: path.into(),
            fields: HeaderMap::new(),
            content: Bytes::new(),
        }
    }

    #[test]
    fn a_listed_target_goes_where_the_operator_says() {
        let url = targets("/v1").locate(&request(Method::POST, "https", "DS.example", "/v1/x"));
        assert_eq!(url.unwrap(), "http://127.0.0.1:9/v1/x");
    }

    #[test]
    fn anything_else_is_not_allowed() {
        for (scheme, authority, path) in [
            ("http", "ds.example", "/v1/x"),
            ("https", "other.example", "/v1/x"),
            ("https", "ds.example:444", "/v1/x"),
            ("https", "user@ds.example", "/v1/x"),
            ("https", "ds.example", "/v10"),
            ("https", "ds.example", "/metrics"),
        ] {
            let located = targets("/v1").locate(&request(Method::POST, scheme, authority, path));
            assert_eq!(
                located.unwrap_err(),
                Failure::TargetNotAllowed,
                "{authority}{path}"
            );
        }
        let located =
            targets("/v1").locate(&request(Method::DELETE, "https", "ds.example", "/v1/x"));
        assert_eq!(located.unwrap_err(), Failure::TargetNotAllowed);
    }

    #[test]
    fn a_base_url_with_a_path_is_refused_at_start() {
        let settings = TargetSettings {
            scheme: "https".into(),
            authority: "ds.example".into(),
            methods: vec!["POST".into()],
            path_prefix: "/".into(),
            forward_to: "http://127.0.0.1:9/base".into(),
        };
        assert!(Targets::new(&[settings]).is_err());
    }
}
