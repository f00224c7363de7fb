//! Charts as SVG. Colours are the page's, by the number of the series, so that
//! light and dark are its affair; lines differ in their dashes as well.

use std::fmt::Write;

use super::escape;

/// Places in a chart, in its own units.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Dashes of the series, so that colour is not all that tells them apart.
const DASHES: [&str; 9] = ["", "6 3", "2 3", "", "8 3 2 3", "6 3", "", "2 3", "8 3 2 3"];

pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// A series.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<Point>,
    /// The value holds until the next point.
    pub(super) steps: bool,
}

/// Lines over a logarithmic vertical axis; a horizontal one that is, too, or
/// even. Ticks are those of the horizontal axis.
pub(super) fn lines(
    title: &str,
    lines: &[Line<'_>],
    ticks: &[(f64, String)],
    logarithmic: bool,
) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let scale = |x: f64| if logarithmic { x.max(1.0).ln() } else { x };
    let least = all().map(|point| scale(point.x)).fold(f64::INFINITY, f64::min);
    let most = all().map(|point| scale(point.x)).fold(f64::NEG_INFINITY, f64::max);
    let bottom = all().map(|point| point.y.log10()).fold(f64::INFINITY, f64::min).floor();
    let top = all().map(|point| point.y.log10()).fold(f64::NEG_INFINITY, f64::max).ceil();
    if !(most > least && top.is_finite() && bottom.is_finite()) {
        return empty(title);
    }
    let top = top.max(bottom + 1.0);
    let across = |x: f64| LEFT + (scale(x) - least) / (most - least) * (WIDTH - LEFT - RIGHT);
    let up =
        |y: f64| HEIGHT - BOTTOM - (y.log10() - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, HEIGHT);
    let mut power = bottom;
    while power <= top {
        let (y, value) = (up(10f64.powf(power)), 10f64.powf(power));
        let _ = write!(
            svg,
            "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"dim\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
        power += 1.0;
    }
    for (x, name) in ticks {
        let _ = write!(
            svg,
            "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            across(*x),
            HEIGHT - 12.0,
            escape(name)
        );
    }
    let mut ends = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let colour = index % DASHES.len();
        let mut path = String::new();
        for (number, point) in line.points.iter().enumerate() {
            let (x, y) = (across(point.x), up(point.y));
            let _ = match (number, line.steps) {
                (0, _) => write!(path, "M{x:.1} {y:.1}"),
                (_, true) => write!(path, "H{x:.1}V{y:.1}"),
                (_, false) => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        let dashes = DASHES.get(colour).copied().unwrap_or_default();
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"var(--s{colour})\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"><title>{}</title></path>",
            escape(line.name)
        );
        if let Some(last) = line.points.last() {
            ends.push((up(last.y), colour, line.name));
        }
    }
    svg += &labels(ends);
    svg + "</svg>"
}

/// Names at the ends of lines, moved apart where they would lie on each other.
fn labels(mut ends: Vec<(f64, usize, &str)>) -> String {
    const APART: f64 = 15.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut places: Vec<f64> = Vec::new();
    for (y, ..) in &ends {
        let least = places.last().map_or(TOP + 4.0, |last| last + APART);
        places.push(y.max(least));
    }
    // Back up what went over the edge.
    let mut limit = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - APART;
    }
    let mut svg = String::new();
    for ((y, colour, name), place) in ends.into_iter().zip(places) {
        let (x, dashes) = (WIDTH - RIGHT, DASHES.get(colour).copied().unwrap_or_default());
        let _ = write!(
            svg,
            "<path d=\"M{x:.0} {y:.1}L{:.0} {place:.1}H{:.0}\" fill=\"none\" \
             stroke=\"var(--s{colour})\" stroke-dasharray=\"{dashes}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" style=\"fill:var(--s{colour})\">{}</text>",
            x + 10.0,
            x + 22.0,
            x + 26.0,
            place + 4.0,
            escape(name)
        );
    }
    svg
}

/// A bar of three parts.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) parts: [f64; 3],
}

/// Bars that lie, with a legend.
pub(super) fn bars(title: &str, parts: &[&str; 3], bars: &[Bar<'_>]) -> String {
    const THICK: f64 = 12.0;
    const LABEL: f64 = 140.0;
    const COLOURS: [usize; 3] = [3, 1, 0];
    let most = bars.iter().map(|bar| bar.parts.iter().sum()).fold(0.0, f64::max);
    if most <= 0.0 {
        return empty(title);
    }
    let gaps = bars.iter().filter(|bar| !bar.name.is_empty()).count() as f64 * 8.0;
    let height = 30.0 + gaps + bars.len() as f64 * (THICK + 2.0);
    let mut svg = open(title, height);
    for (index, (name, colour)) in parts.iter().zip(COLOURS).enumerate() {
        let x = LABEL + index as f64 * 90.0;
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"4\" width=\"12\" height=\"12\" style=\"fill:var(--s{colour})\"/>\
             <text x=\"{}\" y=\"14\">{}</text>",
            x + 16.0,
            escape(name)
        );
    }
    let mut y = 22.0;
    for bar in bars {
        if !bar.name.is_empty() {
            y += 8.0;
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
                LABEL - 8.0,
                y + 16.0,
                escape(bar.name)
            );
        }
        let mut x = LABEL;
        for ((value, colour), part) in bar.parts.iter().zip(COLOURS).zip(parts) {
            let width = value / most * (WIDTH - LABEL - 80.0);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{THICK}\" \
                 style=\"fill:var(--s{colour})\"><title>{}: {value:.0}</title></rect>",
                escape(part)
            );
            x += width;
        }
        let all: f64 = bar.parts.iter().sum();
        let _ = write!(
            svg,
            "<text class=\"dim\" x=\"{:.1}\" y=\"{:.0}\">{all:.0}</text>",
            x + 6.0,
            y + THICK - 1.0
        );
        y += THICK + 2.0;
    }
    svg + "</svg>"
}

/// The beginning of a picture as wide as all are.
pub(super) fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{0}\"><title>{0}</title>",
        escape(title)
    )
}

fn empty(title: &str) -> String {
    open(title, 40.0) + "<text x=\"20\" y=\"24\">nothing was measured</text></svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64]) -> Line<'_> {
        let points = values.iter().enumerate().map(|(x, y)| Point { x: x as f64 + 1.0, y: *y });
        Line { name: "x", points: points.collect(), steps: false }
    }

    #[test]
    fn every_point_is_inside_the_picture() {
        let svg = lines("t", &[line(&[1.0, 10.0, 100_000.0])], &[], true);
        let path = svg.split("d=\"M").nth(1).unwrap().split('"').next().unwrap();
        for pair in path.split('L') {
            let (x, y) = pair.split_once(' ').unwrap();
            assert!((0.0..=WIDTH).contains(&x.parse().unwrap()), "{pair}");
            assert!((0.0..=HEIGHT).contains(&y.parse().unwrap()), "{pair}");
        }
    }

    #[test]
    fn nothing_measured_is_said_and_no_number_is_not_one() {
        assert!(lines("t", &[], &[], true).contains("nothing was measured"));
        assert!(bars("t", &["a", "b", "c"], &[]).contains("nothing was measured"));
        let same = lines("t", &[line(&[5.0, 5.0])], &[], false);
        assert!(!same.contains("NaN") && !same.contains("inf"));
    }

    #[test]
    fn names_do_not_lie_on_each_other() {
        let svg = labels(vec![(100.0, 0, "a"), (101.0, 1, "b"), (399.0, 2, "c"), (399.0, 3, "d")]);
        let mut places: Vec<f64> = svg
            .split("<text x=\"")
            .skip(1)
            .map(|rest| rest.split("y=\"").nth(1).unwrap().split('"').next().unwrap())
            .map(|y| y.parse().unwrap())
            .collect();
        places.sort_by(f64::total_cmp);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 14.0), "{places:?}");
    }
}
