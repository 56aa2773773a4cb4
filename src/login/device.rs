//! The device grant (RFC 8628): a person signs in on another device, by a code that is shown here.

use std::time::Duration;

use serde::Deserialize;

use super::{SignedIn, Wiped};
use crate::clock::Now;
use crate::issuer::{Answer, Endpoint};
use crate::secret::Secret;

/// A sign-in that waits for a person at another device.
#[derive(Debug)]
pub struct Device {
    /// What the person types in; visible characters only.
    pub user_code: String,
    /// Where they do.
    pub verification_uri: String,
    /// The same with the code in it, where the provider has that.
    pub verification_uri_complete: Option<String>,
    /// When it is over.
    pub ends: Now,
    /// How long to wait before the next question.
    pub interval: Duration,
    pub(super) code: Secret,
}

/// What a question of how it stands brought.
#[derive(Debug)]
pub enum Poll {
    /// The person has not decided: ask again after [`Device::interval`].
    Pending,
    /// They signed in.
    Done(Box<SignedIn>),
}

#[derive(Deserialize)]
struct Raw {
    device_code: Wiped,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default = "usual")]
    interval: u64,
}

/// RFC 8628 §3.2.
fn usual() -> u64 {
    5
}

impl Device {
    pub(super) fn read(answer: &Answer, now: Now) -> Result<Self, &'static str> {
        let raw: Raw = (answer.json()).map_err(|_| "its answer is not that of RFC 8628")?;
        let visible = |text: &str| {
            !text.is_empty() && text.len() <= 128 && text.chars().all(|c| !c.is_control())
        };
        // What is shown on a terminal, and opened in a browser.
        let web = |text: &str| text.parse::<Endpoint>().is_ok();
        if !visible(&raw.user_code) || !web(&raw.verification_uri) {
            return Err("its code or its verification_uri cannot be shown");
        }
        let life = Duration::from_secs(raw.expires_in.min(LONGEST));
        let wall = now.wall.checked_add(life);
        Ok(Self {
            user_code: raw.user_code,
            verification_uri: raw.verification_uri,
            verification_uri_complete: raw.verification_uri_complete.filter(|uri| web(uri)),
            ends: Now {
                wall: wall.map_err(|_| "its expires_in is no time")?,
                mono: now.mono + life,
            },
            interval: Duration::from_secs(raw.interval.clamp(1, 60)),
            code: raw.device_code.secret(),
        })
    }

    /// RFC 8628 §3.5: from now on 5 seconds more.
    pub(super) fn slow_down(&mut self) {
        self.interval += Duration::from_secs(5);
    }
}

/// The longest that a person is waited for, in seconds.
const LONGEST: u64 = 30 * 60;
