//! The presets that come with the program, parsed once, and what an operator's file adds to them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::{File, Preset};
use crate::agent::Name;

/// Presets by name and by environment variable.
#[derive(Debug, Clone, Default)]
pub struct Presets {
    list: Vec<Arc<Preset>>,
    by_name: HashMap<Name, usize>,
    by_env: HashMap<Box<str>, Vec<usize>>,
}

impl Presets {
    /// Those of `presets/`, in the order of their names.
    ///
    /// # Panics
    /// Never in a program whose tests passed: one of them loads every file.
    pub fn shipped() -> &'static Arc<Self> {
        static SHIPPED: LazyLock<Arc<Presets>> = LazyLock::new(|| {
            let parsed = FILES.iter().map(|(name, text)| {
                let file: File = toml::from_str(text).expect("a shipped preset is well written");
                let name = name.parse().expect("a file's name is in the grammar");
                file.named(name).expect("a shipped preset is consistent")
            });
            Arc::new(Presets::default().with(parsed.collect()))
        });
        &SHIPPED
    }

    /// These and those of the operator, which win where a name is the same.
    #[must_use]
    pub fn with(&self, extra: Vec<Preset>) -> Self {
        let mut list = self.list.clone();
        for preset in extra.into_iter().map(Arc::new) {
            match list.iter_mut().find(|old| old.name == preset.name) {
                Some(old) => *old = preset,
                None => list.push(preset),
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let mut by_env: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (place, preset) in list.iter().enumerate() {
            for var in preset.env() {
                by_env.entry(var.into()).or_default().push(place);
            }
        }
        Self {
            by_name: list.iter().map(|p| p.name.clone()).zip(0..).collect(),
            by_env,
            list,
        }
    }

    /// The preset of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Preset>> {
        self.by_name.get(name).and_then(|&at| self.list.get(at))
    }

    /// The presets one of whose secrets stands in this environment variable, in the order of their names.
    pub fn by_env(&self, var: &str) -> impl Iterator<Item = &Arc<Preset>> {
        let places = self.by_env.get(var).map_or(&[][..], Vec::as_slice);
        places.iter().filter_map(|&at| self.list.get(at))
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Preset>> {
        self.list.iter()
    }
}

#[cfg(test)]
pub(super) fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// Name and text of every file of `presets/`.
const FILES: &[(&str, &str)] = &[
    ("airtable", include_str!("../../presets/airtable.toml")),
    ("anthropic", include_str!("../../presets/anthropic.toml")),
    (
        "anthropic-oauth",
        include_str!("../../presets/anthropic-oauth.toml"),
    ),
    ("asana", include_str!("../../presets/asana.toml")),
    ("assemblyai", include_str!("../../presets/assemblyai.toml")),
    ("atlassian", include_str!("../../presets/atlassian.toml")),
    ("aws", include_str!("../../presets/aws.toml")),
    (
        "azure-openai",
        include_str!("../../presets/azure-openai.toml"),
    ),
    ("bitbucket", include_str!("../../presets/bitbucket.toml")),
    (
        "brave-search",
        include_str!("../../presets/brave-search.toml"),
    ),
    ("cerebras", include_str!("../../presets/cerebras.toml")),
    ("cloudflare", include_str!("../../presets/cloudflare.toml")),
    ("cohere", include_str!("../../presets/cohere.toml")),
    ("crates-io", include_str!("../../presets/crates-io.toml")),
    ("datadog", include_str!("../../presets/datadog.toml")),
    ("deepgram", include_str!("../../presets/deepgram.toml")),
    ("deepseek", include_str!("../../presets/deepseek.toml")),
    (
        "digitalocean",
        include_str!("../../presets/digitalocean.toml"),
    ),
    ("discord", include_str!("../../presets/discord.toml")),
    ("elevenlabs", include_str!("../../presets/elevenlabs.toml")),
    ("exa", include_str!("../../presets/exa.toml")),
    ("firecrawl", include_str!("../../presets/firecrawl.toml")),
    ("fireworks", include_str!("../../presets/fireworks.toml")),
    ("fly", include_str!("../../presets/fly.toml")),
    ("gemini", include_str!("../../presets/gemini.toml")),
    ("github", include_str!("../../presets/github.toml")),
    ("github-git", include_str!("../../presets/github-git.toml")),
    ("gitlab", include_str!("../../presets/gitlab.toml")),
    ("gitlab-git", include_str!("../../presets/gitlab-git.toml")),
    ("google", include_str!("../../presets/google.toml")),
    ("groq", include_str!("../../presets/groq.toml")),
    ("heroku", include_str!("../../presets/heroku.toml")),
    ("hubspot", include_str!("../../presets/hubspot.toml")),
    (
        "huggingface",
        include_str!("../../presets/huggingface.toml"),
    ),
    ("jina", include_str!("../../presets/jina.toml")),
    ("linear", include_str!("../../presets/linear.toml")),
    (
        "microsoft-graph",
        include_str!("../../presets/microsoft-graph.toml"),
    ),
    ("mistral", include_str!("../../presets/mistral.toml")),
    ("netlify", include_str!("../../presets/netlify.toml")),
    ("notion", include_str!("../../presets/notion.toml")),
    ("npm", include_str!("../../presets/npm.toml")),
    ("openai", include_str!("../../presets/openai.toml")),
    ("openrouter", include_str!("../../presets/openrouter.toml")),
    ("pagerduty", include_str!("../../presets/pagerduty.toml")),
    ("perplexity", include_str!("../../presets/perplexity.toml")),
    ("pinecone", include_str!("../../presets/pinecone.toml")),
    ("pypi", include_str!("../../presets/pypi.toml")),
    ("qdrant", include_str!("../../presets/qdrant.toml")),
    ("replicate", include_str!("../../presets/replicate.toml")),
    ("resend", include_str!("../../presets/resend.toml")),
    ("sendgrid", include_str!("../../presets/sendgrid.toml")),
    ("sentry", include_str!("../../presets/sentry.toml")),
    ("serpapi", include_str!("../../presets/serpapi.toml")),
    ("shopify", include_str!("../../presets/shopify.toml")),
    ("slack", include_str!("../../presets/slack.toml")),
    ("stability", include_str!("../../presets/stability.toml")),
    ("stripe", include_str!("../../presets/stripe.toml")),
    ("supabase", include_str!("../../presets/supabase.toml")),
    ("tavily", include_str!("../../presets/tavily.toml")),
    ("telegram", include_str!("../../presets/telegram.toml")),
    ("together", include_str!("../../presets/together.toml")),
    ("twilio", include_str!("../../presets/twilio.toml")),
    ("vercel", include_str!("../../presets/vercel.toml")),
    ("voyage", include_str!("../../presets/voyage.toml")),
    ("weaviate", include_str!("../../presets/weaviate.toml")),
    ("xai", include_str!("../../presets/xai.toml")),
];
