//! Checks the numbers of the rules in `spec/protocol.md` against all citations of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::script::{conversations, read};

/// The numbers of all rules, in the order of the file.
fn rules() -> Vec<String> {
    let text = read("spec/protocol.md");
    let numbers = text.lines().filter_map(|line| {
        let (number, _) = line.strip_prefix("- **")?.split_once("** ")?;
        Some(number.to_owned())
    });
    numbers.collect()
}

/// The rules cited in a text as "rule 1.2", "rules 1.2 and 3.4" or "rules 1.2 to 1.4", with whole
/// sections left out.
fn cited(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.to_lowercase().split("rule").skip(1) {
        let part = part
            .strip_prefix('s')
            .unwrap_or(part)
            .replace("///", "")
            .replace("//!", "");
        let mut is_range = false;
        for word in part.split_whitespace() {
            let end = word.trim_end_matches([')', '.', ',', ':', ';']);
            let number: Option<(u32, u32)> = end
                .split_once('.')
                .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            match (number, found.last()) {
                (Some((section, last)), Some((_, first))) if is_range => {
                    for number in *first + 1..=last {
                        found.push((section, number));
                    }
                }
                (Some(number), _) => found.push(number),
                (None, _) if word == "and" || word == "to" => {}
                (None, _) => break,
            }
            is_range = word == "to";
            // The sentence goes on behind the last number.
            if end.len() + 1 < word.len() || word.ends_with([')', '.', ':', ';']) {
                break;
            }
        }
    }
    found
        .into_iter()
        .map(|(section, number)| format!("{section}.{number}"))
        .collect()
}

/// The Rust files of a folder.
fn sources(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|other| other == extension) {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn the_rules_are_numbered_without_gaps() {
    let mut last = (0, 0);
    for rule in rules() {
        let (section, number) = rule.split_once('.').unwrap();
        let next: (u32, u32) = (section.parse().unwrap(), number.parse().unwrap());
        let follows = next == (last.0, last.1 + 1) || next == (last.0 + 1, 1);
        assert!(follows, "{rule} behind {last:?}");
        last = next;
    }
}

#[test]
fn cited_rules_exist_and_every_rule_has_a_conversation() {
    let rules: BTreeSet<String> = rules().into_iter().collect();
    let mut citing: BTreeMap<String, String> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for conversation in conversations("server")
        .into_iter()
        .chain(conversations("client"))
    {
        assert!(!conversation.rules.is_empty(), "{}", conversation.name);
        for rule in conversation.rules {
            citing.insert(rule, conversation.name.clone());
        }
        assert!(
            names.insert(conversation.name.clone()),
            "{}",
            conversation.name
        );
    }
    // Only JavaScript has several brokers, each a process that can be killed, and connections that break.
    let scripts = sources("__test__", "js").into_iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let begins = |begin: &&str| name.is_some_and(|name| name.starts_with(begin));
        ["cluster", "session", "mailbox"].iter().any(begins)
    });
    for file in sources("tests", "rs").into_iter().chain(scripts) {
        for rule in cited(&std::fs::read_to_string(&file).unwrap()) {
            citing.insert(rule, file.display().to_string());
        }
    }
    let not_shown: Vec<_> = rules
        .iter()
        .filter(|rule| !citing.contains_key(*rule))
        .collect();
    assert!(not_shown.is_empty(), "nobody shows {not_shown:?}");
    for file in sources("src", "rs") {
        for rule in cited(&std::fs::read_to_string(&file).unwrap()) {
            citing.insert(rule, file.display().to_string());
        }
    }
    for (rule, place) in &citing {
        assert!(rules.contains(rule), "{place} cites {rule}");
    }
}

#[test]
fn frames_given_as_objects_are_encoded_like_any_json_library_does() {
    for side in ["server", "client"] {
        for conversation in conversations(side) {
            for step in &conversation.steps {
                for name in ["send", "expect"] {
                    if step.has(name) && step.text(name).is_none() {
                        let frame = step.json(name).unwrap();
                        assert!(!frame.contains('\\'), "{frame}");
                    }
                }
            }
        }
    }
}

#[test]
fn citations_are_found() {
    assert_eq!(
        cited("(rule 1.2). rules 3.1, 3.2 and 4.5. Not 6.6 (rules 15.2 to 15.4 and 15.8); rule 7"),
        ["1.2", "3.1", "3.2", "4.5", "15.2", "15.3", "15.4", "15.8"]
    );
}
