//! Compares measured figures with the promised ones.

/// One line of the table.
pub struct Figure {
    pub id: &'static str,
    pub what: &'static str,
    pub goal: String,
    pub measured: String,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// There was too little time, or the machine lacks what it takes.
    NotJudged,
}

impl Figure {
    pub fn new(id: &'static str, what: &'static str, goal: &str, measured: impl ToString, met: bool) -> Self {
        let verdict = if met { Verdict::Met } else { Verdict::Missed };
        Self { id, what, goal: goal.to_owned(), measured: measured.to_string(), verdict }
    }

    /// The same, not judged unless `there_was_enough` to judge by.
    pub fn if_enough(mut self, there_was_enough: bool) -> Self {
        if !there_was_enough {
            self.verdict = Verdict::NotJudged;
        }
        self
    }
}

/// Prints the table, and says whether nothing was missed.
pub fn report(figures: &[Figure]) -> bool {
    let width =
        |text: fn(&Figure) -> &str| figures.iter().map(|figure| text(figure).chars().count()).max().unwrap_or(0);
    let (what, goal, measured) =
        (width(|figure| figure.what), width(|figure| &figure.goal), width(|figure| &figure.measured));
    println!("\n{:4} {:what$}  {:goal$}  {:measured$}  verdict", "id", "figure", "goal", "measured");
    for figure in figures {
        let verdict = match figure.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::NotJudged => "not judged",
        };
        let Figure { id, what: name, goal: wanted, measured: found, .. } = figure;
        println!("{id:4} {name:what$}  {wanted:goal$}  {found:measured$}  {verdict}");
    }
    figures.iter().all(|figure| figure.verdict != Verdict::Missed)
}
