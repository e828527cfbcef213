use super::*;

const APPLICATION: i32 = 7;

const ONE: Migration = Migration {
    version: 1,
    name: "one",
    sql: "CREATE TABLE one (id INTEGER) STRICT",
    additive: false,
};
const TWO: Migration = Migration {
    version: 2,
    name: "two",
    sql: "ALTER TABLE one ADD COLUMN more TEXT",
    additive: true,
};
const THREE: Migration = Migration {
    version: 3,
    name: "three",
    sql: "CREATE TABLE three (id INTEGER) STRICT; CREATE TABLE one (id INTEGER) STRICT",
    additive: true,
};

fn open() -> Connection {
    Connection::open_in_memory().expect("memory")
}

fn versions(connection: &Connection) -> Vec<i64> {
    history(connection).expect("reads").iter().map(|applied| applied.version).collect()
}

fn refusal(connection: &mut Connection, migrations: &[Migration]) -> String {
    let before = versions(connection);
    let fault = run(connection, APPLICATION, migrations).expect_err("refuses");
    assert_eq!(versions(connection), before);
    fault.to_string()
}

#[test]
fn a_schema_comes_from_nothing_and_from_any_version() {
    let mut connection = open();
    for _ in 0..2 {
        run(&mut connection, APPLICATION, &[ONE]).expect("applies");
        assert_eq!(versions(&connection), [1]);
    }
    run(&mut connection, APPLICATION, &[ONE, TWO]).expect("applies");
    assert_eq!(versions(&connection), [1, 2]);
    let mark: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).expect("reads");
    assert_eq!(mark, APPLICATION);
}

#[test]
fn a_migration_that_fails_leaves_nothing() {
    let mut connection = open();
    run(&mut connection, APPLICATION, &[ONE]).expect("applies");
    // Its second statement fails, and the one before it was good.
    let problem = refusal(&mut connection, &[ONE, TWO, THREE]);
    assert!(problem.contains("already exists"), "{problem}");
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'three'";
    let count: i64 = connection.query_row(sql, [], |row| row.get(0)).expect("reads");
    assert_eq!(count, 0);
}

#[test]
fn an_older_process_goes_on_if_nothing_was_taken_from_it() {
    let mut connection = open();
    run(&mut connection, APPLICATION, &[ONE, TWO]).expect("applies");
    run(&mut connection, APPLICATION, &[ONE]).expect("two only adds");
    connection.execute_batch("UPDATE migrations SET additive = 0").expect("writes");
    let problem = refusal(&mut connection, &[ONE]);
    assert!(problem.contains("a newer version") && problem.contains("V2__two"), "{problem}");
}

#[test]
fn a_history_that_does_not_fit_is_refused() {
    let mut connection = open();
    run(&mut connection, APPLICATION, &[ONE, TWO]).expect("applies");
    for changed in [Migration { sql: "SELECT 1", ..TWO }, Migration { name: "too", ..TWO }] {
        let problem = refusal(&mut connection, &[ONE, changed]);
        assert!(problem.contains("V2__two in it is not the one of this version"), "{problem}");
    }
    connection.execute_batch("DELETE FROM migrations WHERE version = 1").expect("writes");
    let problem = refusal(&mut connection, &[ONE, TWO]);
    assert!(problem.contains("lacks the migration V1__one"), "{problem}");
}

#[test]
fn the_released_migrations_have_not_changed() {
    let released = MIGRATIONS.iter().take(1);
    let checksums: Vec<_> = released.map(Migration::checksum).collect();
    assert_eq!(checksums, ["40ffc2c6d278c11ecfb8d58a9c515bca24e75d5f97509d0ddfb62e3eb4677e98"]);
}
