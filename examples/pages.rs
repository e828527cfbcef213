//! Writes every state of the waiting page into a folder, as `NAME.html` with its policy in
//! `NAME.csp`: `tests/contact-sheet` has a browser show them.

use std::path::PathBuf;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("usage: pages FOLDER")?.into();
    std::fs::create_dir_all(&folder)?;
    for sample in nightporter::page_samples().await {
        std::fs::write(folder.join(format!("{}.html", sample.name)), sample.html)?;
        std::fs::write(folder.join(format!("{}.csp", sample.name)), sample.policy)?;
    }
    Ok(())
}
