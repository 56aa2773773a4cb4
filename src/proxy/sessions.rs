//! Sessions as the data path sees them: each beginning and each end is recorded, and an end takes with it what the
//! session held.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Proxy, Shared, Snapshot};
use crate::agent::AgentId;
use crate::audit::{Record, Who};
use crate::delegation::{Bounds, Scope};
use crate::identity::{Attested, Listed, Presented, Registry, Unregistered};
use crate::policy::Person;
use crate::secret::Secret;
use crate::session::{self, BadKey, Ended, Hold, Opening, Reason, Revoked, Session, Unknown};

/// `exp` of the token of a session that ends with its command, in seconds from its beginning: a year.
const RUN_TOKEN: i64 = 366 * 24 * 3600;

impl Proxy {
    /// Ends sessions that are past their time or have been idle for too long; to be called some times a second.
    pub fn sweep_sessions(&self) {
        let ended = self.0.sessions.sweep(&self.0.clock.now());
        self.0.note_ends(&ended, None);
        self.0.spread(&ended);
    }

    /// Begins a session that lasts until it is ended, or for a person until the time that is given; its token. Where nothing bounds its scope the token names none:
    /// it stands in the URL of a proxy, and is to be short.
    ///
    /// # Errors
    /// [`BadKey`] where no token can be signed.
    pub fn begin_run(
        &self,
        agent: &AgentId,
        acting_for: Option<(Arc<Person>, Option<Timestamp>)>,
    ) -> Result<String, BadKey> {
        let shared = &self.0;
        let (now, snapshot) = (shared.clock.now(), shared.snapshot.load_full());
        let (person, expires) = acting_for.unzip();
        let expires = expires.flatten();
        let opening = Opening {
            chain: vec![agent.clone()],
            trust: "run".into(),
            person,
            bounds: Bounds {
                scope: snapshot.registry.permissions(agent),
                expires,
                depth: 0,
            },
            parent: None,
            bound: shared.bound("127.0.0.1"),
            idles: false,
        };
        let session = shared.sessions.start(opening, &now).map_err(|_| BadKey)?;
        shared.began(&session, "127.0.0.1", None);
        let (scope, iat) = (session.bounds().scope.to_string(), now.wall.as_second());
        let year = iat.saturating_add(RUN_TOKEN);
        let times = (&*scope, iat, expires.map_or(year, Timestamp::as_second));
        let minted = session::mint(&shared.keys, &session, &shared.issuer, times)?;
        let known = Presented::new(Secret::from(minted.clone()));
        shared.sessions.knows(*known.digest(), &session);
        Ok(minted)
    }

    /// Ends the sessions that end with this process, for this reason: all, unless a store keeps those with a token.
    pub fn end_sessions(&self, reason: Reason) {
        let lasts = self.0.keeper.store.lasts();
        let picks = |session: &Session| !lasts || session.is_implicit() || !session.idles();
        let ended = self.0.sessions.end_where(picks, reason);
        self.0.note_ends(&ended, None);
    }

    /// Ends one session and all that was handed on from it, everywhere and by somebody's order; whether it lived. The
    /// evidence that opened an implicit one opens nothing until it expires.
    ///
    /// # Errors
    /// [`Unknown`] where the store did not take it: here it has ended all the same, and it is tried again.
    pub async fn end_session(
        &self,
        id: &str,
        reason: Reason,
        by: Option<&str>,
    ) -> Result<bool, Unknown> {
        self.0.end_session(id, reason, by).await
    }

    /// Ends the sessions in whose chain this agent stands, everywhere.
    ///
    /// # Errors
    /// [`Unknown`] where the store did not take it: here they have ended all the same.
    pub async fn end_sessions_of(
        &self,
        agent: &AgentId,
        reason: Reason,
        by: Option<&str>,
    ) -> Result<(), Unknown> {
        let picks = |session: &Session| session.chain().contains(agent);
        let ended = self.0.sessions.end_where(picks, reason);
        self.0.note_ends(&ended, by);
        let store = &self.0.keeper.store;
        if store.lasts() {
            store.end_agent(agent.as_str(), reason).await?;
        }
        Ok(())
    }

    /// Every live session, those of the store included, the oldest first.
    ///
    /// # Errors
    /// [`Unknown`] where the store does not answer.
    pub async fn all_sessions(&self) -> Result<Vec<Arc<Session>>, Unknown> {
        let shared = &self.0;
        let mut all = shared.sessions.all();
        let store = &shared.keeper.store;
        if store.lasts() {
            let now = shared.clock.now();
            let kept = store.live().await?.into_iter();
            let others = kept.filter(|kept| all.iter().all(|known| known.id() != &kept.id));
            let others: Vec<_> = others.map(|kept| kept.view(&now)).collect();
            all.extend(others);
            all.sort_by(|a, b| (a.created(), a.id()).cmp(&(b.created(), b.id())));
        }
        Ok(all)
    }

    /// A session's scope in words, by the current configuration.
    pub fn scope_of(&self, session: &Session) -> String {
        words(&self.0.snapshot.load(), session)
    }

    /// Every agent of the registry.
    pub fn agents(&self) -> Vec<Listed> {
        self.0.snapshot.load().registry.listed()
    }

    /// When an agent acted last, as far as this process saw it.
    pub fn last_used(&self, agent: &AgentId) -> Option<Timestamp> {
        let live = self.0.sessions.all().into_iter();
        let live = live.filter(|session| session.chain().contains(agent));
        let over = self.0.overlay.last_used(agent);
        let over = over.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        live.map(|session| session.last_used()).chain(over).max()
    }

    /// Ends the sessions of agents that the registry does not let act.
    pub fn end_unregistered(&self) {
        let snapshot = self.0.snapshot.load_full();
        self.0.end_unregistered(&snapshot.registry);
    }

    /// Ends the sessions that this agent opened with a token that is no longer its own.
    pub fn end_sessions_by_token(&self, agent: &AgentId) {
        let picks = |session: &Session| {
            session.chain().first() == Some(agent) && &**session.trust() == "token"
        };
        let ended = self.0.sessions.end_where(picks, "revoked");
        self.0.note_ends(&ended, None);
        self.0.spread(&ended);
    }
}

impl Shared {
    /// The implicit session of an attested agent at this peer; a new one is recorded. It ends with its evidence. One that
    /// was opened before may be bound to another peer.
    ///
    /// # Errors
    /// [`Revoked`].
    pub(super) fn open_session(
        &self,
        (snapshot, from): (&Snapshot, &str),
        attested: &Attested,
    ) -> Result<Hold, Revoked> {
        let evidence = attested.evidence;
        let bounds = Bounds {
            scope: snapshot.registry.permissions(&attested.agent),
            expires: attested.expires,
            depth: 0,
        };
        let opening = Opening {
            chain: vec![attested.agent.clone()],
            trust: Arc::clone(&attested.trust),
            person: None,
            bounds,
            parent: None,
            bound: self.bound_by(attested, from),
            idles: true,
        };
        // One session for each evidence, wherever it is shown: it is bound to where it was shown first. A process is an
        // evidence of its own, whatever others share its address.
        let process = attested.bound.as_ref().map(ToString::to_string);
        let place = match (evidence, &process) {
            (Some(_), _) => "",
            (None, Some(process)) => process,
            (None, None) => from,
        };
        let now = self.clock.now();
        let (hold, new) = self.sessions.open(opening, (place, evidence), &now)?;
        if new {
            self.began(hold.session(), from, None);
        }
        Ok(hold)
    }

    /// Notes a session's beginning: broker, metrics, record. `scope` is how the record says what it may do.
    pub(super) fn began(&self, session: &Session, from: &str, scope: Option<&str>) {
        self.metrics.sessions.inc();
        self.broker
            .begin_session(session.id(), session.agent(), session.person());
        let bounds = session.bounds();
        let words = bounds.scope.to_string();
        let mut record = Record::session_start(who(session), session.trust());
        record.peer = Some(from);
        record.bound = session.bound();
        record.scope = scope.or_else(|| (!bounds.scope.is_all()).then_some(&*words));
        record.parent = session.parent().map(|parent| &**parent);
        record.depth = Some(bounds.depth);
        record.expires = bounds.expires;
        self.audit.append(&record);
    }

    /// Notes the ends of sessions: what they held is revoked.
    pub(super) fn note_ends(&self, ended: &[Ended], by: Option<&str>) {
        for (session, reason) in ended {
            self.metrics.sessions.dec();
            for agent in session.chain() {
                self.overlay
                    .used(agent, session.last_used().as_millisecond());
            }
            self.broker.end_session(session.id());
            let mut record = Record::session_end(who(session), reason);
            record.by = by;
            self.audit.append(&record);
        }
    }

    /// Ends the sessions of agents that the registry no longer lets act.
    pub(super) fn end_unregistered(self: &Arc<Self>, registry: &Registry) {
        for (reason, why) in [
            ("suspend", Unregistered::Suspended),
            ("order", Unregistered::Unknown),
        ] {
            let picks = |session: &Session| registry.admit_all(session.chain()) == Err(why);
            let ended = self.sessions.end_where(picks, reason);
            self.note_ends(&ended, None);
            self.spread(&ended);
        }
    }
}

/// A session's scope in words: one without a bound may use the routes that admit its agents.
pub(super) fn words(snapshot: &Snapshot, session: &Session) -> String {
    let scope = &session.bounds().scope;
    if !scope.is_all() {
        return scope.to_string();
    }
    let routes = snapshot.table.routes().iter();
    let open = routes.filter(|route| session.chain().iter().all(|agent| route.admits(agent)));
    let mut words = Vec::new();
    for route in open {
        words.push(format!("route:{}", route.name));
        words.extend(
            route
                .narrow
                .scopes
                .iter()
                .flatten()
                .map(ToString::to_string),
        );
    }
    Scope::of(words.iter().map(String::as_str)).to_string()
}

pub(super) fn who(session: &Session) -> Who<'_> {
    Who {
        session: Some(session.id()),
        agent: Some(session.agent().as_str()),
        user: session.user(),
        chain: Some(session.chain()),
        ..Who::default()
    }
}
