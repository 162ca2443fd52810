//! docs/hostile.md says which test shows each row of what may come in. A test that is not there shows nothing.

use std::fs;
use std::path::Path;

const ROWS: usize = 40;

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/hostile.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .filter(|cells: &Vec<&str>| cells[0].parse::<usize>().is_ok())
        .collect();
    let numbers: Vec<usize> = rows.iter().map(|cells| cells[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    for cells in &rows {
        let named: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "row {} names no test", cells[0]);
        for name in named {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("row {}: {name}", cells[0]));
            let text =
                fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("row {}: no {file}", cells[0]));
            assert!(text.contains(&format!("fn {test}(")), "row {}: no {test} in {file}", cells[0]);
        }
    }
}

#[test]
fn every_vector_belongs_to_a_row() {
    let odd: Vec<_> =
        super::vectors::all().into_iter().filter(|vector| !(1..=ROWS).contains(&vector.row.into())).collect();
    assert!(odd.is_empty());
}
