//! Owns reading what a server counts.

/// What a scrape says under a name; of all labels together, where none are named. `None`: it says nothing.
pub fn counted(scrape: &str, name: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.parse::<u64>().ok()
    };
    scrape.lines().filter_map(of_line).reduce(|sum, value| sum + value)
}
