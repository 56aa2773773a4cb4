//! People at the running keyward: sign-ins by browser and command line, and the passes that come of them.
//!
//! A pass opens what is its holder's, and nothing of an operator's unless an operator holds it. It is an hour long for a
//! person, whatever the provider's token says: the provider is asked at the next sign-in. It is over sooner where what it
//! was given for is gone: the person's login, the operator's token, or for the console's own URL any operator's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;

use super::operators::{Bearer, Caller, Gate, Operators};
use crate::agent::User;
use crate::audit::{Audit, Event, Record, Who};
use crate::clock::Clock;
use crate::login::{
    Begun, Device, Fault, Holder, PATIENCE, Pass, PassStore, Pending, Poll, Provider, Returned,
    SignedIn, Silent, digest_of, random,
};
use crate::secret::Secret;

/// How long a person is signed in.
const PERSON: Duration = Duration::from_hours(1);
/// How long an operator's console stays open.
const OPERATOR: Duration = Duration::from_hours(8);
/// Who acts by the console's own URL, in the audit.
const CONSOLE: &str = "console";

/// Where people sign in, and who is signed in.
#[derive(Debug)]
pub struct People {
    providers: ArcSwap<Vec<Arc<Provider>>>,
    /// A browser's sign-in by its state, with the digest of the cookie of the browser that began it.
    browsers: Pending<(Begun, [u8; 32])>,
    /// A command line's by the handle that it alone knows.
    commands: Pending<Waiting>,
    /// Codes of the console's URL.
    once: Pending<()>,
    passes: Arc<dyn PassStore>,
    operators: Arc<Operators>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    /// How browsers reach the admin side, without a slash at its end.
    base: String,
}

/// For whom a pass is.
#[derive(Debug, Clone)]
enum For {
    /// Whoever has the console's own URL: it acts as this process's operator.
    Console,
    /// Who showed their token.
    Operator(Arc<str>),
    Person(User),
}

#[derive(Debug)]
enum Waiting {
    Browser(Begun),
    /// Not to be asked again before then.
    Device(Arc<Provider>, Box<Device>, Instant),
}

/// How a command line's sign-in stands.
#[derive(Debug)]
pub(super) enum Step {
    /// Somebody has yet to sign in; ask again after so long.
    Pending(Duration),
    /// They did: their pass, and who they are.
    Done(String, User, Timestamp),
}

/// Why there is no pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum No {
    Fault(Fault),
    Silent,
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Silent> for No {
    fn from(_: Silent) -> Self {
        Self::Silent
    }
}

const UNKNOWN: Fault = Fault::Refused("there is no such login here");
const LATE: Fault = Fault::Refused("this sign-in is unknown, used or too late: begin anew");

impl People {
    /// Nobody is signed in but by passes that the store kept. `base` is how browsers reach the admin side.
    pub fn new(
        providers: Vec<Provider>,
        (passes, operators): (Arc<dyn PassStore>, Arc<Operators>),
        (audit, clock): (Arc<Audit>, Arc<dyn Clock>),
        base: &str,
    ) -> Self {
        let people = Self {
            providers: ArcSwap::default(),
            browsers: Pending::new(PATIENCE),
            commands: Pending::new(PATIENCE),
            once: Pending::new(PATIENCE),
            passes,
            operators,
            audit,
            clock,
            base: base.trim_end_matches('/').to_owned(),
        };
        people.replace(providers);
        people
    }

    /// Puts other logins in place. Whose login is gone is signed out.
    pub fn replace(&self, providers: Vec<Provider>) {
        let providers = providers.into_iter().map(Arc::new).collect();
        self.providers.store(Arc::new(providers));
    }

    /// A URL that opens the console as an operator, once and within 10 minutes.
    pub fn console_url(&self) -> String {
        let code = random();
        self.once.put(&code, (), &self.clock.now());
        format!("{}/login/once?code={code}", self.base)
    }

    /// How browsers reach the admin side.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The names of the logins.
    pub(super) fn names(&self) -> Vec<String> {
        let providers = self.providers.load();
        providers.iter().map(|one| one.name().to_string()).collect()
    }

    /// The login of this name; without a name the only one.
    fn provider(&self, name: Option<&str>) -> Result<Arc<Provider>, Fault> {
        let providers = self.providers.load();
        let found = match (name, providers.as_slice()) {
            (Some(name), all) => all.iter().find(|one| one.name().as_str() == name),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        found.cloned().ok_or(UNKNOWN)
    }

    /// Begins a browser's sign-in: where it goes, and the cookie that makes the answer this browser's.
    pub(super) async fn begin_browser(&self, login: &str) -> Result<(String, String), Fault> {
        let provider = self.provider(Some(login))?;
        let redirect_uri = format!("{}/login/callback", self.base);
        let begun = provider.begin(&redirect_uri).await?;
        let (url, state, cookie) = (begun.url.clone(), begun.state.clone(), random());
        let waiting = (begun, digest_of(cookie.as_bytes()));
        self.browsers.put(&state, waiting, &self.clock.now());
        Ok((url, cookie))
    }

    /// Ends it with what came back to the browser of this cookie; the pass.
    pub(super) async fn finish_browser(
        &self,
        query: &str,
        cookie: Option<&str>,
    ) -> Result<String, No> {
        let returned = Returned::read(query).map_err(|_| LATE)?;
        let taken = self.browsers.take(&returned.state, &self.clock.now());
        let (begun, browser) = taken.ok_or(LATE)?;
        // Else a stranger's answer would sign this browser in as the stranger, or theirs as its person.
        if cookie.map(|cookie| digest_of(cookie.as_bytes())) != Some(browser) {
            return Err(LATE.into());
        }
        let signed_in = self.finish(begun, &returned).await?;
        let (token, _) = self.issue(For::Person(signed_in.user), true).await?;
        Ok(token)
    }

    /// Begins a sign-in whose answer comes to a port of the caller's own machine: handle, state, and URL.
    pub(super) async fn begin_command(
        &self,
        login: Option<&str>,
        port: u16,
    ) -> Result<(String, String, String), Fault> {
        let provider = self.provider(login)?;
        // A loopback address and nothing else (RFC 8252 §7.3): the answer goes to no other machine.
        let redirect_uri = format!("http://127.0.0.1:{port}/callback");
        let begun = provider.begin_anew(&redirect_uri).await?;
        let (handle, state, url) = (random(), begun.state.clone(), begun.url.clone());
        let now = self.clock.now();
        self.commands.put(&handle, Waiting::Browser(begun), &now);
        Ok((handle, state, url))
    }

    /// Begins a sign-in on another device: handle, and what is to be shown (code, page, page with the code, interval).
    pub(super) async fn begin_device(
        &self,
        login: Option<&str>,
    ) -> Result<(String, serde_json::Value), Fault> {
        let provider = self.provider(login)?;
        let device = provider.device().await?;
        let handle = random();
        let shown = serde_json::json!({
            "handle": handle,
            "state": null,
            "url": null,
            "user-code": device.user_code,
            "verification-uri": device.verification_uri,
            "verification-uri-complete": device.verification_uri_complete,
            "interval": device.interval.as_secs(),
            "expires": device.ends.wall.to_string(),
        });
        let now = self.clock.now();
        let next = now.mono + device.interval;
        let waiting = Waiting::Device(provider, Box::new(device), next);
        self.commands.put(&handle, waiting, &now);
        Ok((handle, shown))
    }

    /// Goes on with a command line's sign-in: with the query that came back to its port, or to ask how its device's
    /// stands.
    pub(super) async fn finish_command(
        &self,
        handle: &str,
        answer: Option<&str>,
    ) -> Result<Step, No> {
        let now = self.clock.now();
        let signed_in = match (self.commands.take(handle, &now).ok_or(LATE)?, answer) {
            (Waiting::Browser(begun), Some(answer)) => {
                let returned = Returned::read(answer).map_err(|_| LATE)?;
                self.finish(begun, &returned).await?
            }
            // Whoever asks too early is told to wait, and the provider is not asked.
            (Waiting::Device(provider, device, next), None) if now.mono < next => {
                let wait = next.saturating_duration_since(now.mono);
                let waiting = Waiting::Device(provider, device, next);
                self.commands.put(handle, waiting, &now);
                return Ok(Step::Pending(wait.max(Duration::from_secs(1))));
            }
            (Waiting::Device(provider, mut device, _), None) => {
                match provider.poll(&mut device).await {
                    Ok(Poll::Pending) => {
                        let interval = device.interval;
                        let next = now.mono + interval;
                        let waiting = Waiting::Device(provider, device, next);
                        self.commands.put(handle, waiting, &now);
                        return Ok(Step::Pending(interval));
                    }
                    Ok(Poll::Done(signed_in)) => {
                        self.record((provider.name().as_str(), Some(&signed_in.user)), SIGNED_IN);
                        *signed_in
                    }
                    Err(fault) => {
                        self.record((provider.name().as_str(), None), FAILED);
                        return Err(fault.into());
                    }
                }
            }
            (Waiting::Browser(_), None) | (Waiting::Device(..), Some(_)) => {
                return Err(LATE.into());
            }
        };
        let user = signed_in.user;
        let (token, expires) = self.issue(For::Person(user.clone()), false).await?;
        Ok(Step::Done(token, user, expires))
    }

    async fn finish(&self, begun: Begun, returned: &Returned) -> Result<SignedIn, Fault> {
        let provider = self.provider(Some(begun.login.as_str()))?;
        let done = provider.finish(begun, returned).await;
        let name = provider.name().as_str();
        match &done {
            Ok(signed_in) => self.record((name, Some(&signed_in.user)), SIGNED_IN),
            Err(_) => self.record((name, None), FAILED),
        }
        done
    }

    /// A pass for whoever has the console's URL.
    pub(super) async fn redeem(&self, code: &str) -> Result<Option<String>, Silent> {
        if self.once.take(code, &self.clock.now()).is_none() {
            self.record((CONSOLE, None), FAILED);
            return Ok(None);
        }
        self.record((CONSOLE, None), SIGNED_IN);
        let (token, _) = self.issue(For::Console, true).await?;
        Ok(Some(token))
    }

    /// A browser's pass for an operator who shows their token.
    pub(super) async fn operator(&self, token: Secret) -> Result<Option<String>, Silent> {
        let Bearer::Caller(Caller::Operator(name)) = self.operators.know(&token).await else {
            self.record((CONSOLE, None), FAILED);
            return Ok(None);
        };
        let mut record = Record::new(Event::Login, Who::default());
        (record.provider, record.outcome) = (Some(CONSOLE), Some(SIGNED_IN));
        record.by = Some(&name);
        self.audit.append(&record);
        let (token, _) = self.issue(For::Operator(name), true).await?;
        Ok(Some(token))
    }

    async fn issue(&self, whom: For, browser: bool) -> Result<(String, Timestamp), Silent> {
        let life = match &whom {
            For::Console | For::Operator(_) => OPERATOR,
            For::Person(_) => PERSON,
        };
        let token = random();
        // An operator's name is kept with its tie; it has no such sign itself.
        let tied = |name: Option<&str>| {
            let tie = self.operators.tie(name, token.as_bytes());
            let tie = tie.ok_or(Silent)?;
            let holder = format!("{}{TIE}{tie}", name.unwrap_or_default());
            Ok(Holder::Operator(holder.into()))
        };
        let holder = match whom {
            For::Person(user) => Holder::Person(user),
            For::Operator(name) => tied(Some(&name))?,
            For::Console => tied(None)?,
        };
        let expires = self.clock.now().wall.checked_add(life);
        let pass = Pass {
            holder,
            browser,
            expires: expires.map_err(|_| Silent)?,
        };
        self.passes
            .keep(&digest_of(token.as_bytes()), &pass)
            .await?;
        Ok((token, pass.expires))
    }

    /// Who holds this pass. It counts where it was given for: a browser's as a cookie, another as a bearer token.
    pub(super) async fn holder(
        &self,
        token: &[u8],
        browser: bool,
    ) -> Result<Option<Caller>, Silent> {
        if token.len() != LENGTH {
            return Ok(None);
        }
        let Some(pass) = self.passes.find(&digest_of(token)).await? else {
            return Ok(None);
        };
        if pass.browser != browser || pass.expires <= self.clock.now().wall {
            return Ok(None);
        }
        Ok(match pass.holder {
            Holder::Operator(holder) => self.operator_of(&holder, token).map(Caller::Operator),
            Holder::Person(user) if self.provider(Some(user.provider.as_str())).is_ok() => {
                Some(Caller::Person(user))
            }
            Holder::Person(_) => None,
        })
    }

    /// The operator of a pass, if the tokens are still those that it was given for.
    fn operator_of(&self, holder: &str, token: &[u8]) -> Option<Arc<str>> {
        let (name, kept) = holder.split_once(TIE)?;
        let named = (!name.is_empty()).then_some(name);
        let tie = self.operators.tie(named, token)?;
        let same = Secret::from(tie).equals(kept.as_bytes());
        same.then(|| named.unwrap_or(CONSOLE).into())
    }

    /// What a pass is called where it must not be shown: enough to end it, and no more.
    pub(super) fn name_of(token: &str) -> String {
        BASE64URL.encode(digest_of(token.as_bytes()))
    }

    /// Ends the browser's pass of this name, if there is one.
    pub(super) async fn end_named(&self, name: &str) -> Result<(), Silent> {
        let digest = BASE64URL.decode(name).ok();
        let Some(digest) = digest.and_then(|digest| digest.try_into().ok()) else {
            return Ok(());
        };
        let Some(pass) = self.passes.find(&digest).await?.filter(|pass| pass.browser) else {
            return Ok(());
        };
        self.passes.end(&digest).await?;
        match &pass.holder {
            Holder::Person(user) => {
                self.record((user.provider.as_str(), Some(user)), SIGNED_OUT);
            }
            Holder::Operator(_) => self.record((CONSOLE, None), SIGNED_OUT),
        }
        Ok(())
    }

    /// Ends a pass.
    pub(super) async fn sign_out(&self, token: &[u8], by: &Caller) -> Result<(), Silent> {
        self.passes.end(&digest_of(token)).await?;
        match by {
            Caller::Person(user) => {
                self.record((user.provider.as_str(), Some(user)), SIGNED_OUT);
            }
            Caller::Operator(_) => self.record((CONSOLE, None), SIGNED_OUT),
        }
        Ok(())
    }

    fn record(&self, (provider, user): (&str, Option<&User>), outcome: &'static str) {
        let who = Who {
            user: user.map(|user| &*user.name),
            ..Who::default()
        };
        let mut record = Record::new(Event::Login, who);
        (record.provider, record.outcome) = (Some(provider), Some(outcome));
        self.audit.append(&record);
    }
}

/// Between an operator's name and what ties the pass to their token.
const TIE: char = '#';
const SIGNED_IN: &str = "signed-in";
const SIGNED_OUT: &str = "signed-out";
const FAILED: &str = "failed";
/// The length of every pass: 256 bits in base64url.
const LENGTH: usize = 43;

/// Operators by their tokens, people by their passes.
#[async_trait]
impl Gate for People {
    async fn know(&self, token: &Secret) -> Bearer {
        match self.operators.know(token).await {
            Bearer::Nobody => match self.holder(token.expose(), false).await {
                Ok(Some(caller)) => Bearer::Caller(caller),
                // Nobody can tell whose it is: it opens nothing.
                Ok(None) | Err(Silent) => Bearer::Nobody,
            },
            known => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Settings, Sink};
    use crate::clock::ManualClock;
    use crate::store::Store;

    async fn sees(people: &People, token: &str, browser: bool) -> Option<Caller> {
        people.holder(token.as_bytes(), browser).await.unwrap()
    }

    #[tokio::test]
    async fn codes_and_passes_end_by_the_clock() {
        let moved = Arc::new(ManualClock::new("2100-01-01T12:00:00Z".parse().unwrap()));
        let clock = Arc::clone(&moved) as Arc<dyn Clock>;
        let audit = Audit::open(Settings::new(Sink::Memory), Arc::clone(&clock));
        let store = Store::memory().unwrap();
        let people = People::new(
            Vec::new(),
            (Arc::new(store), Arc::new(Operators::new(Arc::default()))),
            (Arc::new(audit.unwrap()), clock),
            "http://127.0.0.1:8181/",
        );
        let code = || {
            let url = people.console_url();
            let code = url.strip_prefix("http://127.0.0.1:8181/login/once?code=");
            code.unwrap().to_owned()
        };
        let (first, late) = (code(), code());
        let pass = people.redeem(&first).await.unwrap().unwrap();
        assert_eq!(people.redeem(&first).await.unwrap(), None, "once");
        let console = Some(Caller::Operator("console".into()));
        assert_eq!(sees(&people, &pass, true).await, console);
        assert_eq!(sees(&people, &pass, false).await, None, "no bearer");
        moved.advance(PATIENCE);
        assert_eq!(people.redeem(&late).await.unwrap(), None, "too late");
        moved.advance(OPERATOR.saturating_sub(PATIENCE + Duration::from_secs(1)));
        assert_eq!(sees(&people, &pass, true).await, console);
        moved.advance(Duration::from_secs(1));
        assert_eq!(sees(&people, &pass, true).await, None);
        // Whose login the file no longer names is out; who is no operator gets no pass.
        let alice = User {
            provider: "corp".parse().unwrap(),
            name: "alice".into(),
        };
        let (token, _) = people.issue(For::Person(alice), true).await.unwrap();
        assert_eq!(sees(&people, &token, true).await, None);
        let nobody = people.issue(For::Operator("alice".into()), true).await;
        assert_eq!(nobody, Err(Silent));
    }
}
