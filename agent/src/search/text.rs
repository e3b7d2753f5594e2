//! What of a tool's descriptor is searched, and how identifiers become words.

use serde_json::Value;

use crate::admission::Tool;

/// The searched text of one tool.
#[derive(Debug, Clone, Default)]
pub struct ToolText {
    pub server: String,
    pub tool: String,
    pub title: String,
    pub description: String,
    /// Names and descriptions of the parameters.
    pub parameters: String,
}

impl ToolText {
    pub fn of(tool: &Tool) -> Self {
        // The descriptor was parsed strictly when it was reviewed; a title that is no string is no title.
        let descriptor: Value = serde_json::from_str(&tool.descriptor).unwrap_or(Value::Null);
        Self::of_descriptor(&tool.server, &tool.name, &descriptor)
    }

    pub fn of_descriptor(server: &str, tool: &str, descriptor: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut title = text(&descriptor["title"]);
        if title.is_empty() {
            title = text(&descriptor["annotations"]["title"]);
        }
        let mut parameters = String::new();
        collect_parameters(&descriptor["inputSchema"], 3, &mut parameters);
        Self {
            server: server.into(),
            tool: tool.into(),
            title,
            description: text(&descriptor["description"]),
            parameters,
        }
    }

    pub(super) fn name_words(&self) -> String {
        format!("{} {}", split_identifiers(&self.tool), split_identifiers(&self.server))
    }

    /// The first sentence or line of the description, at most 160 characters.
    pub fn summary(&self) -> String {
        let line = self.description.trim().lines().next().unwrap_or_default();
        let sentence = line.split_inclusive(". ").next().unwrap_or_default().trim_end();
        sentence.chars().take(160).collect()
    }
}

fn collect_parameters(schema: &Value, depth: usize, out: &mut String) {
    let Some(properties) = schema["properties"].as_object().filter(|_| depth > 0) else { return };
    for (name, property) in properties {
        out.push_str(&split_identifiers(name));
        out.push(' ');
        if let Some(description) = property["description"].as_str() {
            out.push_str(description);
            out.push(' ');
        }
        collect_parameters(property, depth - 1, out);
        collect_parameters(&property["items"], depth - 1, out);
    }
}

/// `readTextFile` and `read_text-file` become `read Text File` and `read text file`.
pub(super) fn split_identifiers(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let starts_word = c.is_uppercase()
            && (before.is_lowercase()
                || before.is_numeric()
                || (before.is_uppercase() && rest.peek().is_some_and(|next| next.is_lowercase())));
        if starts_word {
            words.push(' ');
        }
        words.push(if c.is_alphanumeric() { c } else { ' ' });
        before = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_words() {
        assert_eq!(split_identifiers("readTextFile"), "read Text File");
        assert_eq!(split_identifiers("HTTPServer_get-x2Y"), "HTTP Server get x2 Y");
    }

    #[test]
    fn nested_parameters_are_searched() {
        let descriptor = serde_json::json!({"inputSchema": {"properties": {
            "filter": {"description": "what to keep", "properties": {"dueDate": {}}}}}});
        let text = ToolText::of_descriptor("s", "t", &descriptor);
        assert_eq!(text.parameters.trim(), "filter what to keep due Date");
    }
}
