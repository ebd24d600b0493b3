//! The table as a picture: one bar a row, as SVG, and as PNG where there is a Chromium to draw it.

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::table::Summary;

const WIDTH: f64 = 900.0;
const ROW: f64 = 34.0;
/// Where bars begin and the longest ends.
const BARS: (f64, f64) = (230.0, 720.0);
const HEAD: f64 = 70.0;

/// Writes `summary.svg` and `summary.png` into a folder.
pub fn draw(summary: &Summary, folder: &Path) -> io::Result<()> {
    let svg = folder.join("summary.svg");
    fs::write(&svg, picture(summary))?;
    let drawn = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"])
        .arg(format!("--window-size={WIDTH},{}", height(summary)))
        .arg(format!("--screenshot={}", folder.join("summary.png").display()))
        .arg(format!("file://{}", svg.canonicalize()?.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match drawn {
        Ok(status) if status.success() => Ok(()),
        _ => Err(io::Error::other("chromium did not draw summary.png")),
    }
}

fn height(summary: &Summary) -> f64 {
    HEAD + ROW * summary.rows.len() as f64 + 20.0
}

fn picture(summary: &Summary) -> String {
    let longest = summary.rows.iter().map(|row| row.cpu_us_per_request).fold(1.0, f64::max);
    let height = height(summary);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\">CPU of one request, µs, and ÷ a minimal Pingora</text>\n\
         <text x=\"20\" y=\"52\" fill=\"#666\" font-size=\"12\">{}, {}, {} rounds, medians; logarithmic</text>\n",
        summary.date, summary.machine, summary.rounds
    );
    for (number, row) in summary.rows.iter().enumerate() {
        let top = HEAD + ROW * number as f64;
        let share = (row.cpu_us_per_request.max(1.0).ln() / longest.ln()).clamp(0.01, 1.0);
        let width = (BARS.1 - BARS.0) * share;
        let colour = if row.name.starts_with("gateway") { "#0b7a75" } else { "#b0b7bf" };
        let ratio = row.cpu_ratio_to.get("pingora_pass").map_or(String::new(), |ratio| format!(" · {ratio:.2} ×"));
        let (base, end) = (top + 17.0, BARS.0 + width + 8.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{}\" y=\"{top}\" width=\"{width:.0}\" height=\"24\" rx=\"3\" fill=\"{colour}\"/>\n\
             <text x=\"{end:.0}\" y=\"{base}\" fill=\"#333\">{:.1}{ratio}</text>",
            BARS.0 - 10.0,
            row.name,
            BARS.0,
            row.cpu_us_per_request
        );
    }
    svg + "</svg>\n"
}
