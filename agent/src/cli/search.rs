//! `lazaret search`.

use super::CliError;
use super::args::read::SearchArgs;
use super::instance::Instance;
use super::out::{self, Rows, plain};
use crate::api::client::escape;
use crate::api::types::HitView;
use crate::search::{SearchError, corpus};

pub async fn run(instance: &Instance, args: SearchArgs) -> Result<(), CliError> {
    match (&args.corpus, &args.queries) {
        (Some(corpus), Some(queries)) => rank(corpus, queries),
        _ => ask(instance, &args).await,
    }
}

/// Ranks files; no daemon is needed.
fn rank(corpus: &std::path::Path, queries: &std::path::Path) -> Result<(), CliError> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    corpus::rank(corpus, queries, &mut out).map_err(|e| match e {
        SearchError::Output(e) => CliError::output(e),
        SearchError::Corpus { .. } => CliError::Configuration(e.to_string()),
        SearchError::Index(_) => CliError::failed(e),
    })?;
    std::io::Write::flush(&mut out).map_err(CliError::output)
}

async fn ask(instance: &Instance, args: &SearchArgs) -> Result<(), CliError> {
    let mut path = format!("/v1/search?q={}&limit={}", escape(&args.query.join(" ")), args.limit);
    if let Some(agent) = &args.agent {
        let address = super::agent::address(instance, agent).await?;
        path.push_str(&format!("&agent={}", escape(address.as_str())));
    }
    if args.explain {
        path.push_str("&explain=true");
    }
    let hits: Vec<HitView> = instance.admin().get(&path).await?;
    if args.json {
        return out::listing("search", "hits", &hits);
    }
    let mut rows = Rows::new(&["TOOL", "SCORE", if args.explain { "WHY" } else { "SUMMARY" }]);
    for hit in &hits {
        rows.row([
            plain(format!("{}:{}", hit.server, hit.tool)),
            plain(format!("{:.2}", hit.score)),
            plain(if args.explain { why(hit) } else { hit.summary.clone() }),
        ]);
    }
    rows.print("No approved tool fits. Quarantined tools are never found: see `lazaret tool list`.")
}

fn why(hit: &HitView) -> String {
    let reasons = hit.reasons.iter().flatten();
    reasons.map(|r| format!("{:.2} {} in {}", r.score, r.word, r.field)).collect::<Vec<_>>().join(", ")
}
