//! What an operator can set about listeners and upstream connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::agent::Name;
use crate::host::Target;
use crate::tls::TrustSettings;

/// `[proxy]` (the listener `default`) or `[listener.NAME]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    /// `default`, or NAME.
    pub name: Name,
    /// `listen`.
    pub listen: Vec<ListenAddr>,
    /// `unmatched`.
    pub unmatched: Unmatched,
    /// `identify`.
    pub identify: Identify,
    /// `base-url`: services answer under `/NAME/`, for SDKs that know no proxy.
    pub base_url: bool,
    /// The limits.
    pub limits: Limits,
}

/// One address of `listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenAddr {
    /// `"127.0.0.1:8180"`; port 0 picks one.
    Tcp(SocketAddr),
    /// `"unix:/run/keyward/proxy.sock"`.
    Unix(PathBuf),
    /// `"systemd"` or `"systemd:NAME"`: sockets that systemd hands over (sd_listen_fds(3)), by name where given.
    Systemd(Option<String>),
}

/// What happens to hosts that no route names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// Refused.
    #[default]
    Refuse,
    /// Tunnelled untouched, and counted.
    Tunnel,
}

/// Whether agents must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identify {
    /// They must.
    #[default]
    Required,
    /// Nothing is asked: with at most one agent, on loopback or a unix socket.
    Open,
}

/// Limits of time and number for one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `max-connections`: in all.
    pub max_connections: usize,
    /// `max-connections-per-agent`.
    pub max_connections_per_agent: usize,
    /// `header-timeout`: from the first byte of a request head to its last; also for a TLS handshake.
    pub header_timeout: Duration,
    /// `idle-timeout`: without a byte in either direction.
    pub idle_timeout: Duration,
    /// `total-timeout`: for one request, its answer included; upgraded connections and event streams are held to idleness only.
    pub total_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_agent: 2_048,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(5),
            total_timeout: Duration::from_hours(1),
        }
    }
}

/// `[upstream]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamSettings {
    /// `trust`.
    pub trust: TrustSettings,
    /// `allow-private`: addresses otherwise refused.
    pub allow_private: Vec<IpNet>,
    /// `connect-to`: host and port as the agent names them → `host:port` to dial. Name and TLS checks stay those of the key.
    /// In order, so that the same file always resolves to the same text: a reload compares that.
    pub connect_to: BTreeMap<Target, Target>,
    /// `via`: a parent proxy (`http://host:port`).
    pub via: Option<Target>,
    /// `connect-timeout`: for name, TCP and TLS together.
    pub connect_timeout: Duration,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            trust: TrustSettings {
                system: true,
                pem: Vec::new(),
            },
            allow_private: Vec::new(),
            connect_to: BTreeMap::new(),
            via: None,
            connect_timeout: Duration::from_secs(10),
        }
    }
}
