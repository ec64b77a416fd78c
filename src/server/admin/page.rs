//! The files of the dashboard. They contain no figures: the page reads those from the API.

use super::http::Response;

/// The page loads nothing from elsewhere, and runs no script of an id or an address.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
     Referrer-Policy: no-referrer\r\n";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/format.js", SCRIPT, include_str!("page/format.js")),
    ("/tables.js", SCRIPT, include_str!("page/tables.js")),
    ("/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/uplot.js", SCRIPT, include_str!("page/uplot.js")),
    ("/style.css", STYLE, include_str!("page/style.css")),
    ("/figures.css", STYLE, include_str!("page/figures.css")),
];

/// The file with this path.
pub(super) fn find(path: &str) -> Option<Response> {
    let file = FILES.iter().find(|(name, _, _)| *name == path);
    let (_, content_type, content) = file?;
    Some(Response::new(200, content_type, (*content).into()).with(POLICY))
}
