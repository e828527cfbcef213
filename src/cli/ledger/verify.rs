//! `nightporter ledger verify`: whether the record is what it was.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::progress::Progress;
use super::{open, own_key};
use crate::cli::{CliError, CommandResult, NEGATIVE, wait};
use crate::config::Config;
use crate::ledger::checkpoint::file::{CheckpointFile, FILE, Notes};
use crate::ledger::checkpoint::{Checkpoint, rfc3339};
use crate::ledger::dead_letter::DeadLetters;
use crate::ledger::key::VerifierKey;
use crate::ledger::proof::{Proof, Proved};
use crate::ledger::ranges::Ranges;
use crate::ledger::record::WriterId;
use crate::ledger::verify::{Evidence, Report, SavedCheckpoints, verify};

#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// Also compare with the checkpoints in this file, which you have kept elsewhere
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Verify the proof in this file instead, as `/v1/audit` gives it; needs no database
    #[arg(long, value_name = "FILE", conflicts_with = "checkpoint")]
    record: Option<PathBuf>,
    /// The public key that you have kept, or its file [default: that of the ledger's own key]
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    options: &Options,
    load: impl FnOnce() -> Result<Config, CliError>,
    out: &mut dyn Write,
) -> CommandResult {
    let key = options.key.as_deref().map(verifier_key).transpose()?;
    match (&options.record, key) {
        (Some(file), Some(key)) => proof(file, &key, options, out),
        (Some(file), None) => {
            let config = load()?;
            let (_, tenant) = wait(open(&config))?;
            proof(file, &own_key(&config)?.verifier(&tenant), options, out)
        }
        (None, key) => whole(options, key, &load()?, out),
    }
}

/// Verifies a proof.
fn proof(
    file: &Path,
    key: &VerifierKey,
    Options { json, .. }: &Options,
    out: &mut dyn Write,
) -> CommandResult {
    match Proof::parse(&read(file)?).and_then(|proof| proof.verify(key)) {
        Ok(Proved { record, position, checkpoint, texts: _ }) if *json => {
            let checkpoint = claim(&checkpoint);
            let id = record.id.to_string();
            let value = json!({"id": id, "position": position, "unaltered_since": checkpoint});
            writeln!(out, "{value}")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Proved { record, position, checkpoint, texts: _ }) => {
            let id = record.id;
            writeln!(out, "record {id} at position {position}: {}", words(&checkpoint))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problem) => {
            let problem = problem.to_string();
            if *json {
                let value = json!({"unaltered_since": null, "findings": [problem]});
                writeln!(out, "{value}")?;
            } else {
                writeln!(out, "{}: {problem}", file.display())?;
            }
            Ok(NEGATIVE.into())
        }
    }
}

/// Verifies all records.
fn whole(
    options: &Options,
    key: Option<VerifierKey>,
    config: &Config,
    out: &mut dyn Write,
) -> CommandResult {
    let own = own_key(config);
    let report = wait(async {
        let (ledger, tenant) = open(config).await?;
        let (key, signer) = match (key, own) {
            (Some(key), signer) => (key, signer.ok()),
            (None, signer) => {
                let signer = signer?;
                (signer.verifier(&tenant), Some(signer))
            }
        };
        let mut kept = Vec::new();
        let log = CheckpointFile::new(config.ledger.path.join(FILE));
        match log.read()? {
            Some(notes) => kept.push(SavedCheckpoints { name: FILE.into(), notes, is_log: true }),
            // It belongs beside the private key, which an auditor does not have.
            None if signer.is_some() => {
                kept.push(SavedCheckpoints {
                    name: FILE.into(),
                    notes: Notes::default(),
                    is_log: true,
                });
            }
            None => {}
        }
        if let Some(file) = &options.checkpoint {
            let name = file.display().to_string().into();
            kept.push(SavedCheckpoints { name, notes: Notes::parse(&read(file)?), is_log: false });
        }
        let spooled = spooled(&ledger.letters).await?;
        let mut snapshot = ledger.archive.snapshot().await?;
        // The clock of this machine may be another one.
        let now = snapshot.now().await?;
        let evidence = Evidence { tenant, key, signer, kept, spooled, now };
        let mut progress = Progress::new("verified");
        let report = verify(&mut snapshot, evidence, |done, all| progress.show(done, Some(all)));
        Ok(report.await?)
    })?;
    if options.json {
        writeln!(out, "{}", as_json(&report))?;
    } else {
        print(&report, out)?;
    }
    let is_proved = report.unaltered_since().is_some();
    Ok(if is_proved { ExitCode::SUCCESS } else { NEGATIVE.into() })
}

fn print(report: &Report, out: &mut dyn Write) -> Result<(), CliError> {
    let Report { findings, others, unreadable, remarks, proved, uncovered, cut, .. } = report;
    match proved {
        Some(checkpoint) if findings.is_empty() => writeln!(out, "{}", words(checkpoint))?,
        None if findings.is_empty() => {
            writeln!(out, "nothing is proved: there is no checkpoint yet")?;
        }
        _ => {}
    }
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    if *others > 0 {
        writeln!(out, "records after it that were altered too or have moved: {others}")?;
    }
    if *unreadable > 0 {
        writeln!(out, "records that cannot be read: {unreadable}")?;
    }
    if *uncovered > 0 {
        writeln!(out, "records that no checkpoint covers yet: {uncovered}")?;
    }
    if *cut > 0 {
        writeln!(out, "records that retention has removed: {cut}")?;
    }
    for remark in remarks {
        writeln!(out, "{remark}")?;
    }
    Ok(())
}

fn as_json(report: &Report) -> serde_json::Value {
    let Report { findings, others, unreadable, remarks, records, uncovered, cut, .. } = report;
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    json!({
        "unaltered_since": report.unaltered_since().map(claim),
        "findings": findings,
        "others": others,
        "unreadable": unreadable,
        "remarks": remarks,
        "records": records,
        "uncovered": uncovered,
        "removed": cut,
    })
}

/// The claim, which is exactly what is proved.
fn words(checkpoint: &Checkpoint) -> String {
    format!("unaltered since checkpoint {} of {}", checkpoint.size, rfc3339(checkpoint.at))
}

fn claim(checkpoint: &Checkpoint) -> serde_json::Value {
    json!({"size": checkpoint.size, "time": rfc3339(checkpoint.at).to_string()})
}

/// Returns the numbers of the records that wait in the spool, by writer.
async fn spooled(letters: &DeadLetters) -> Result<BTreeMap<WriterId, Ranges>, CliError> {
    let mut spooled = BTreeMap::<_, Ranges>::new();
    let problem = |error| CliError::Message(format!("the spool cannot be read: {error}"));
    for letter in letters.list().await.map_err(problem)? {
        // One that is gone by now is in the archive, or another process writes it there.
        let Ok(detail) = letters.get(&letter.id).await else { continue };
        for record in detail.records {
            spooled.entry(record.id.writer).or_default().insert(record.id.seq);
        }
    }
    Ok(spooled)
}

fn verifier_key(argument: &str) -> Result<VerifierKey, CliError> {
    let parse = |text: &str| text.trim().parse::<VerifierKey>();
    match parse(argument) {
        Ok(key) => Ok(key),
        Err(_) if Path::new(argument).exists() => {
            let key = parse(&read(Path::new(argument))?);
            key.map_err(|error| CliError::Message(format!("{argument}: {error}")))
        }
        Err(error) => Err(CliError::Message(format!("--key: {error}"))),
    }
}

fn read(file: &Path) -> Result<String, CliError> {
    fs::read_to_string(file)
        .map_err(|error| CliError::Message(format!("{}: {error}", file.display())))
}

/// Opens nothing; only names the key for the operator to keep.
pub(super) fn key(config: &Config, out: &mut dyn Write) -> CommandResult {
    let (_, tenant): (_, Arc<str>) = wait(open(config))?;
    writeln!(out, "{}", own_key(config)?.verifier(&tenant))?;
    Ok(ExitCode::SUCCESS)
}
