//! What a `usage` object says.

use crate::base::json::Node;

/// The tokens of a response.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the input.
    pub input: u64,
    /// Those of them that came from a prompt cache.
    pub cached_input: u64,
    /// All tokens of the output.
    pub output: u64,
    /// Those of them that the model has used for reasoning.
    pub reasoning: u64,
}

/// The longest `usage` that is read. Realtime's, with the details of its details, has about 500 bytes.
pub(super) const LONGEST: usize = 4096;

impl Usage {
    /// Input and output together: what limits count.
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Reads a `usage` object. Azure names its fields in two ways: `prompt_tokens`, `completion_tokens`
    /// (chat, completions, embeddings) or `input_tokens`, `output_tokens` (responses, images,
    /// transcriptions, realtime, messages). `None` where it has neither, as that of a transcription by duration.
    ///
    /// Claude's `input_tokens` are without those that were read from its prompt cache or written to it, which it
    /// tells besides (Anthropic's Messages API); here the input has all of them, as OpenAI's has.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let node = Node::from_json(json).ok()?;
        let count = |node: &Node, names: &[&str]| {
            names.iter().find_map(|name| node.field(name).and_then(Node::as_u64))
        };
        let detail = |names: &[&str], name: &str| {
            let details = names.iter().find_map(|name| node.field(name));
            details.and_then(|details| count(details, &[name])).unwrap_or_default()
        };
        let input = count(&node, &["prompt_tokens", "input_tokens"]);
        let output = count(&node, &["completion_tokens", "output_tokens"]);
        if input.is_none() && output.is_none() {
            return None;
        }
        // Realtime has `token` in the singular.
        let of_input = ["prompt_tokens_details", "input_tokens_details", "input_token_details"];
        let of_output =
            ["completion_tokens_details", "output_tokens_details", "output_token_details"];
        let beside = |name: &str| count(&node, &[name]).unwrap_or_default();
        let from_cache = beside("cache_read_input_tokens");
        let to_cache = beside("cache_creation_input_tokens");
        let input = input.unwrap_or_default().saturating_add(from_cache).saturating_add(to_cache);
        Some(Self {
            input,
            cached_input: detail(&of_input, "cached_tokens").saturating_add(from_cache),
            output: output.unwrap_or_default(),
            reasoning: detail(&of_output, "reasoning_tokens"),
        })
    }
}

impl Usage {
    /// What two events of one response tell together, each as far as it knows.
    pub(super) fn or_more(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.input = self.input.saturating_add(more.input);
        self.cached_input = self.cached_input.saturating_add(more.cached_input);
        self.output = self.output.saturating_add(more.output);
        self.reasoning = self.reasoning.saturating_add(more.reasoning);
    }
}
