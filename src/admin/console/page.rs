//! Pages: server-rendered, without a script, and every text in them escaped.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::view::View;

/// HTML being written. What is put in as text cannot become markup.
#[derive(Debug, Default)]
pub(super) struct Html(String);

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#111;background:#fff}\
table{border-collapse:collapse;margin-bottom:2rem}th,td{text-align:left;vertical-align:top;padding:.25rem .75rem;border-bottom:1px solid #ddd}\
td{max-width:22rem;overflow-wrap:anywhere}form{display:inline}button{font:inherit}header{display:flex;gap:1rem;align-items:baseline}\
.fault{padding:.5rem 1rem;border:1px solid #b00}";

/// Nothing is loaded, framed or run, and forms go nowhere else; the one style is named by its hash.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let sum = BASE64.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{sum}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::from_str(&policy).expect("base64 is visible ASCII")
});

impl Html {
    /// The beginning of a page.
    pub(super) fn page(title: &str) -> Self {
        Self::headed(title, None)
    }

    /// A page that goes on to the console by itself: a link that the provider's page began would come without the
    /// cookie, which is for this site's own links only.
    pub(super) fn onwards(title: &str, to: &str) -> Self {
        Self::headed(title, Some(to))
    }

    fn headed(title: &str, onwards: Option<&str>) -> Self {
        let mut html = Self::default();
        html.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
        if let Some(to) = onwards {
            html.raw("<meta http-equiv=\"refresh\" content=\"0;url=")
                .text(to)
                .raw("\">");
        }
        html.raw("<title>")
            .text(title)
            .raw("</title><style>")
            .raw(STYLE)
            .raw("</style></head><body>");
        html
    }

    /// Markup of keyward's own.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, also between the quotes of an attribute. What is not visible is shown as such, and what turns the direction
    /// of writing cannot turn what stands beside it.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if c.is_control() || is_turning(c) => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// A hidden field of a form.
    pub(super) fn hidden(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.raw("<input type=\"hidden\" name=\"")
            .raw(name)
            .raw("\" value=\"")
            .text(value)
            .raw("\">")
    }

    /// The items of a list, each with its buttons.
    pub(super) fn list(&mut self, view: &View, items: &[Value], csrf: &str) {
        self.raw("<h2>").raw(view.title).raw("</h2>");
        if items.is_empty() {
            self.raw("<p>none</p>");
            return;
        }
        self.raw("<table><tr>");
        for column in view.columns {
            self.raw("<th>").raw(column).raw("</th>");
        }
        self.raw("<th></th></tr>");
        for item in items {
            self.raw("<tr>");
            for column in view.columns {
                let shown = item.get(column).map(shown).unwrap_or_default();
                self.raw("<td><bdi>").text(&shown).raw("</bdi></td>");
            }
            self.raw("<td>");
            self.buttons(view, item, csrf);
            self.raw("</td></tr>");
        }
        self.raw("</table>");
    }

    fn buttons(&mut self, view: &View, item: &Value, csrf: &str) {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let Some(id) = text(view.id) else { return };
        for action in view.actions {
            let fits = |(name, values): (&str, &[&str])| {
                text(name).is_some_and(|value| values.contains(&value))
            };
            if !action.only.is_none_or(fits) {
                continue;
            }
            self.raw("<form method=\"post\" action=\"act\">")
                .hidden("csrf", csrf)
                .hidden("view", view.path)
                .hidden("action", action.label)
                .hidden("id", id);
            if action.reason {
                self.raw("<input name=\"reason\" maxlength=\"256\" placeholder=\"reason\">");
            }
            self.raw("<button>")
                .raw(action.label)
                .raw("</button></form> ");
        }
    }

    /// The page as an answer.
    pub(super) fn answer(&mut self, status: StatusCode) -> Response<Full<Bytes>> {
        self.raw("</body></html>");
        let mut response = Response::new(Full::new(Bytes::from(std::mem::take(&mut self.0))));
        *response.status_mut() = status;
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        guarded(response)
    }
}

/// An answer that no other page frames, keeps or takes for something else.
pub(super) fn guarded(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Under `no-referrer` a browser sends `Origin: null` with forms (Fetch §3.1), and the check of it would say no.
        (REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Marks that change the direction of writing (Unicode UAX #9), and others that nobody sees.
fn is_turning(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::view::VIEWS;
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let evil = "\"><script>alert('x')</script>\u{202e}\u{1b}[31m&";
        let item = json!({
            "session": evil, "agent": evil, "user": evil, "reason": evil, "state": "live", "status": "active",
            "approval": evil, "lease": evil, "purpose": evil, "url": evil, "chain": [evil, evil],
        });
        for view in VIEWS {
            let mut html = Html::page(evil);
            html.list(view, std::slice::from_ref(&item), evil);
            let page = html.0;
            assert!(
                !page.contains("<script") && !page.contains("alert('"),
                "{page}"
            );
            assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}'));
            assert!(page.contains("&lt;script&gt;") && page.contains("&quot;&gt;"));
            assert!(page.matches("<form").count() >= 1, "{}", view.title);
        }
    }
}
