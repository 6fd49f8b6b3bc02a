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
    /// transcriptions, realtime). `None` where it has neither, as that of a transcription by duration.
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
        Some(Self {
            input: input.unwrap_or_default(),
            cached_input: detail(&of_input, "cached_tokens"),
            output: output.unwrap_or_default(),
            reasoning: detail(&of_output, "reasoning_tokens"),
        })
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
