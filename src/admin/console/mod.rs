//! The console: a small page for operators and for people who signed in. It shows what the API's parts show them, and
//! its buttons ask the same parts.

mod page;
mod view;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::header::{COOKIE, HOST, HeaderValue, LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::api::{Api, Ask};
use super::operators::Caller;
use super::people::{No, People};
use crate::login::{Fault, Silent, digest_of};
use crate::secret::Secret;
use page::{Html, guarded};
use view::VIEWS;

/// Whether a path is the console's.
pub(super) fn is_path(path: &str) -> bool {
    let (_, path) = split(path);
    matches!(path, "/" | "/act" | "/logout") || path.starts_with("/login/")
}

/// Below this, and a name that nobody can guess, stands the console of one browser over http.
const BELOW: &str = "/at/";

/// Where a console stands, and which of its pages it is. Whose it is says the cookie, not the path.
fn split(path: &str) -> (&str, &str) {
    let rest = path.strip_prefix(BELOW).and_then(|rest| rest.find('/'));
    match rest {
        Some(end) => (
            path.get(..=BELOW.len() + end).unwrap_or_default(),
            path.get(BELOW.len() + end..).unwrap_or_default(),
        ),
        None => ("/", path),
    }
}

/// A request to the console, whose host was found to be ours.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

type Page = Response<Full<Bytes>>;

/// Answers it.
pub(super) async fn answer(people: &People, api: &Api, wish: Wish<'_>) -> Page {
    let cookies = Cookies::of(people, wish.headers);
    let (at, path) = split(wish.path);
    match (wish.method, path) {
        (&Method::GET | &Method::HEAD, "/") => match cookies.caller().await {
            Ok(Some((caller, token))) => console(api, &caller, token).await,
            Ok(None) => entrance(people, StatusCode::OK, None),
            Err(Silent) => silent(),
        },
        (&Method::GET, path)
            if path != "/login/callback" && path != "/" && is_sent_here(wish.headers) =>
        {
            entrance(
                people,
                StatusCode::FORBIDDEN,
                Some(
                    "Another site sent you here. Sign in from this page, or by the URL that you were given.",
                ),
            )
        }
        (&Method::GET, "/login/once") => {
            let code = field(wish.query.as_bytes(), "code").unwrap_or_default();
            match people.redeem(&code).await {
                Ok(Some(token)) => cookies.entered(&token, to(&cookies.home(&token))).await,
                Ok(None) => entrance(people, StatusCode::FORBIDDEN, Some(USED)),
                Err(Silent) => silent(),
            }
        }
        (&Method::GET, "/login/callback") => {
            let done = people.finish_browser(wish.query, cookies.get(BEGUN));
            match done.await {
                Ok(token) => {
                    let home = cookies.home(&token);
                    let mut html = Html::onwards("keyward", &home);
                    html.raw("<p>You are signed in. <a href=\"").text(&home);
                    html.raw("\">Go on</a></p>");
                    let page = cookies.without_begun(html.answer(StatusCode::OK));
                    cookies.entered(&token, page).await
                }
                Err(no) => {
                    let (status, why) = told(no);
                    entrance(people, status, Some(why))
                }
            }
        }
        (&Method::GET, path) if path.starts_with("/login/") => {
            let login = path.strip_prefix("/login/").unwrap_or_default();
            match people.begin_browser(login).await {
                Ok((url, cookie)) => cookies.begun(&cookie, &url),
                Err(fault) => {
                    let (status, why) = told(No::Fault(fault));
                    entrance(people, status, Some(why))
                }
            }
        }
        (&Method::POST, _) if !is_own(people, wish.headers) => entrance(
            people,
            StatusCode::FORBIDDEN,
            Some("The form came from another page."),
        ),
        (&Method::POST, "/login/token") => {
            let token = Secret::from(field(wish.body, "token").unwrap_or_default());
            match people.operator(token).await {
                Ok(Some(token)) => cookies.entered(&token, to(&cookies.home(&token))).await,
                Ok(None) => entrance(
                    people,
                    StatusCode::FORBIDDEN,
                    Some("The token is not one of [admin] tokens."),
                ),
                Err(Silent) => silent(),
            }
        }
        (&Method::POST, "/act" | "/logout") => match cookies.caller().await {
            Ok(Some((caller, token))) => {
                let shown = Secret::from(field(wish.body, "csrf").unwrap_or_default());
                if !shown.equals(csrf(token).as_bytes()) {
                    return entrance(people, StatusCode::FORBIDDEN, Some("The form is too old."));
                }
                if path == "/logout" {
                    return match people.sign_out(token.as_bytes(), &caller).await {
                        Ok(()) => cookies.left(token, to("/")),
                        Err(Silent) => silent(),
                    };
                }
                act(api, caller, (at, wish.body)).await
            }
            Ok(None) => entrance(people, StatusCode::FORBIDDEN, Some("Sign in first.")),
            Err(Silent) => silent(),
        },
        _ => fault(
            StatusCode::METHOD_NOT_ALLOWED,
            "This is not done with this method.",
        ),
    }
}

/// What the caller sees.
async fn console(api: &Api, caller: &Caller, token: &str) -> Page {
    let csrf = csrf(token);
    let mut html = Html::page("keyward");
    html.raw("<header><h1>keyward</h1><p>");
    match caller {
        Caller::Operator(name) => html.raw("operator ").text(name),
        Caller::Person(user) => html
            .raw("<bdi>")
            .text(&user.name)
            .raw("</bdi> (")
            .text(user.provider.as_str())
            .raw(")"),
    };
    html.raw("</p><form method=\"post\" action=\"logout\">")
        .hidden("csrf", &csrf)
        .raw("<button>sign out</button></form></header>");
    for view in VIEWS {
        let path = vec![view.path.to_owned()];
        let ask = Ask::new(caller.clone(), Method::GET, path).asking(view.query);
        let reply = api.pass_on(&ask).await;
        // A list that is not there, or not for this caller, is not shown.
        if reply.fault.is_some() {
            continue;
        }
        let items = reply
            .body
            .as_ref()
            .and_then(|body| body.get("items")?.as_array());
        html.list(view, items.map_or(&[][..], Vec::as_slice), &csrf);
    }
    html.answer(StatusCode::OK)
}

/// Does what a button says, as whoever pressed it.
async fn act(api: &Api, caller: Caller, (at, body): (&str, &[u8])) -> Page {
    let (view, action) = (field(body, "view"), field(body, "action"));
    let found = VIEWS.iter().find(|one| view.as_deref() == Some(one.path));
    let found = found.and_then(|view| {
        let mut actions = view.actions.iter();
        let action = actions.find(|one| action.as_deref() == Some(one.label))?;
        Some((view, action))
    });
    let (Some((view, action)), Some(id)) = (found, field(body, "id")) else {
        return fault(StatusCode::BAD_REQUEST, "There is no such button.");
    };
    let mut path = vec![view.path.to_owned(), id];
    path.extend(action.then.map(str::to_owned));
    let mut ask = Ask::new(caller, action.method.clone(), path);
    let reason = field(body, "reason").filter(|reason| !reason.is_empty() && action.reason);
    if let Some(reason) = reason {
        ask = ask.bearing(&json!({ "reason": reason }));
    }
    let reply = api.pass_on(&ask).await;
    let Some(refused) = reply.fault else {
        return to(at);
    };
    let detail = reply.body.as_ref().and_then(|body| body.get("detail"));
    let detail = detail.and_then(Value::as_str).unwrap_or_default();
    fault(refused.status().0, detail)
}

/// The page of those who are not signed in.
fn entrance(people: &People, status: StatusCode, why: Option<&str>) -> Page {
    let mut html = Html::page("keyward");
    html.raw("<h1>keyward</h1>");
    if let Some(why) = why {
        html.raw("<p class=\"fault\">").text(why).raw("</p>");
    }
    for login in people.names() {
        html.raw("<p><a href=\"/login/")
            .text(&login)
            .raw("\">Sign in at ");
        html.text(&login).raw("</a></p>");
    }
    html.raw(
        "<form method=\"post\" action=\"/login/token\"><label>Operator's token \
         <input type=\"password\" name=\"token\" autocomplete=\"off\"></label> <button>sign in</button></form>",
    );
    html.answer(status)
}

fn fault(status: StatusCode, why: &str) -> Page {
    let mut html = Html::page("keyward");
    html.raw("<p class=\"fault\">").text(why);
    html.raw("</p><p><a href=\"./\">Back</a></p>");
    html.answer(status)
}

fn silent() -> Page {
    fault(
        StatusCode::SERVICE_UNAVAILABLE,
        "The store does not answer. Try again.",
    )
}

fn told(no: No) -> (StatusCode, &'static str) {
    match no {
        No::Fault(Fault::Refused(why)) => (StatusCode::FORBIDDEN, why),
        No::Fault(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The login's provider is out of reach.",
        ),
        No::Silent => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The store does not answer.",
        ),
    }
}

/// On to a path of our own. No parameter of a request ever says where to.
fn to(path: &str) -> Page {
    let Ok(path) = HeaderValue::from_str(path) else {
        return fault(StatusCode::BAD_REQUEST, "There is no such page.");
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, path);
    guarded(response)
}

/// Whether another site's page made the browser come (Fetch Metadata §2.2): a sign-in is begun by its person.
fn is_sent_here(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

/// Whether a form was sent by a page of ours (RFC 6454 §7): browsers say so with every POST.
fn is_own(people: &People, headers: &HeaderMap) -> bool {
    let only = |name| {
        let mut fields = headers.get_all(name).iter();
        let first = fields.next().and_then(|field| field.to_str().ok());
        first.filter(|_| fields.next().is_none())
    };
    let (Some(host), Some(origin)) = (only(HOST), only(ORIGIN)) else {
        return false;
    };
    // Under the public URL's name the scheme is the public URL's; under an address it is the listener's own.
    let origin = origin.to_ascii_lowercase();
    let own = format!("http://{}", host.to_ascii_lowercase());
    let site = headers.get("sec-fetch-site");
    (origin == people.base().to_ascii_lowercase() || origin == own)
        && site.is_none_or(|site| site == "same-origin")
}

/// What a form must hold: it follows from the pass, which no other site sees.
fn csrf(token: &str) -> String {
    BASE64URL.encode(digest_of(format!("csrf {token}").as_bytes()))
}

fn field(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

const USED: &str = "This URL is unknown, used or too old: it is good once, for 10 minutes. A restart writes a new one.";
/// The cookie of the browser's pass.
const PASS: &str = "keyward";
/// The cookie that names the browser's pass, so that the next sign-in can end it. It opens nothing: over http other ports of
/// the host can see it.
const BEFORE: &str = "keyward-before";
/// The cookie of a browser that began a sign-in.
const BEGUN: &str = "keyward-login";

/// The cookies of a request, and those that go back.
struct Cookies<'a> {
    people: &'a People,
    headers: &'a HeaderMap,
    /// Behind https: `__Host-` keeps other hosts and paths from setting it, `Secure` keeps it from cleartext.
    secure: bool,
}

impl<'a> Cookies<'a> {
    fn of(people: &'a People, headers: &'a HeaderMap) -> Self {
        Self {
            people,
            headers,
            secure: people.base().starts_with("https://"),
        }
    }

    fn name(&self, name: &str) -> String {
        let prefix = if self.secure { "__Host-" } else { "" };
        format!("{prefix}{name}")
    }

    /// The cookie of this name; of two, one may be somebody else's, so it is neither.
    fn get(&self, name: &str) -> Option<&'a str> {
        let name = self.name(name);
        let fields = self.headers.get_all(COOKIE).iter();
        let pairs = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    /// Who looks at the page, and their pass.
    async fn caller(&self) -> Result<Option<(Caller, &'a str)>, Silent> {
        let Some(token) = self.get(PASS) else {
            return Ok(None);
        };
        let caller = self.people.holder(token.as_bytes(), true).await?;
        Ok(caller.map(|caller| (caller, token)))
    }

    /// Where the console of this pass stands. Browsers show a cookie of http to every port of the host, and so to whatever
    /// another process serves there; they show it only below its path. So over http that is one which nobody can guess,
    /// and which stands in no `Referer` that leaves this origin.
    fn home(&self, token: &str) -> String {
        if self.secure {
            return "/".to_owned();
        }
        let sum = digest_of(format!("at {token}").as_bytes());
        format!(
            "{BELOW}{}/",
            BASE64URL.encode(sum.get(..16).unwrap_or_default())
        )
    }

    /// A new pass; the one that the browser had before ends. The pass itself does not say which that is: over http its cookie
    /// stays below its own path, and none that is strict comes along with a provider's redirect. So a name of it does.
    async fn entered(&self, token: &str, mut page: Page) -> Page {
        if let Some(before) = self.get(BEFORE) {
            self.people.end_named(before).await.ok();
        }
        let home = self.home(token);
        self.set(&mut page, (PASS, token), (&home, "SameSite=Strict"));
        let name = People::name_of(token);
        self.set(
            &mut page,
            (BEFORE, &name),
            (self.sign_ins(), "SameSite=Lax"),
        );
        page
    }

    fn left(&self, token: &str, mut page: Page) -> Page {
        let more = "SameSite=Strict; Max-Age=0";
        self.set(&mut page, (PASS, ""), (&self.home(token), more));
        let more = "SameSite=Lax; Max-Age=0";
        self.set(&mut page, (BEFORE, ""), (self.sign_ins(), more));
        page
    }

    /// On to the provider. This cookie comes back with the provider's redirect, so it cannot be strict.
    fn begun(&self, cookie: &str, url: &str) -> Page {
        let mut page = to("/");
        match HeaderValue::from_str(url) {
            Ok(url) => page.headers_mut().insert(LOCATION, url),
            Err(_) => {
                return fault(
                    StatusCode::BAD_GATEWAY,
                    "The provider's URL cannot be used.",
                );
            }
        };
        let more = "SameSite=Lax; Max-Age=600";
        self.set(&mut page, (BEGUN, cookie), (self.answers(), more));
        page
    }

    fn without_begun(&self, mut page: Page) -> Page {
        let more = "SameSite=Lax; Max-Age=0";
        self.set(&mut page, (BEGUN, ""), (self.answers(), more));
        page
    }

    /// Above where all sign-ins end.
    fn sign_ins(&self) -> &'static str {
        if self.secure { "/" } else { "/login/" }
    }

    /// Where the provider sends the browser back to; `__Host-` wants the path of everything.
    fn answers(&self) -> &'static str {
        if self.secure { "/" } else { "/login/callback" }
    }

    fn set(&self, page: &mut Page, (name, value): (&str, &str), (path, more): (&str, &str)) {
        let secure = if self.secure { "; Secure" } else { "" };
        let name = self.name(name);
        let cookie = format!("{name}={value}; Path={path}; HttpOnly; {more}{secure}");
        let mut cookie = HeaderValue::from_str(&cookie).expect("base64url is visible ASCII");
        cookie.set_sensitive(true);
        page.headers_mut().append(SET_COOKIE, cookie);
    }
}
