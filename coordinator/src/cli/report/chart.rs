//! Drawings as inline SVG: curves over versions, ROC curves, intervals. Each has a text that says the
//! same; the tables beside them have the numbers.

use super::markup::{append, text};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
/// Room for the labels of the axes.
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;
/// Points of a curve that are drawn as dots as well.
const DOTS_MAX: usize = 60;
/// Styles of curves.
pub(super) const CURVES: usize = 4;

/// Where something is drawn: x from `low.0` to `high.0`, y from `low.1` to `high.1`.
#[derive(Debug, Clone, Copy)]
struct Frame {
    low: (f64, f64),
    high: (f64, f64),
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |value: f64, low: f64, high: f64| {
            if high > low { (value - low) / (high - low) } else { 0.5 }
        };
        let across = share(x, self.low.0, self.high.0);
        let up = share(y, self.low.1, self.high.1);
        let (width, height) = (WIDTH - LEFT - 10.0, HEIGHT - BOTTOM - TOP);
        (LEFT + across * width, TOP + (1.0 - up) * height)
    }

    fn points(&self, points: &[(f64, f64)]) -> String {
        let placed = points.iter().map(|point| self.place(*point));
        placed.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
    }
}

/// A value of every version that has one, over the versions; nothing where fewer than two have.
pub(super) fn over_versions(title: &str, points: &[(f64, f64)]) -> Option<String> {
    let (Some((first, begun)), Some((last, ended))) = (points.first(), points.last()) else {
        return None;
    };
    let values = points.iter().map(|(_, value)| *value);
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if points.len() < 2 || !(low.is_finite() && high.is_finite()) {
        return None;
    }
    let ticks = ticks(low, high);
    let ends = (ticks.first().copied().unwrap_or(low), ticks.last().copied().unwrap_or(high));
    let frame = Frame { low: (*first, ends.0.min(low)), high: (*last, ends.1.max(high)) };
    let said = format!("{title} from version {first} to {last}: {begun:.4} to {ended:.4}");
    let mut svg = open(title, &said);
    for tick in &ticks {
        let ((left, y), (right, _)) = (frame.place((*first, *tick)), frame.place((*last, *tick)));
        line(&mut svg, "grid", (left, y), (right, y));
        label(&mut svg, "end", (left - 6.0, y + 4.0), &short(*tick));
    }
    for (x, anchor) in [(*first, "start"), (*last, "end")] {
        let (across, down) = frame.place((x, frame.low.1));
        label(&mut svg, anchor, (across, down + 20.0), &format!("v{x}"));
    }
    append(
        &mut svg,
        format_args!("<polyline class=\"curve\" points=\"{}\"/>", frame.points(points)),
    );
    if points.len() <= DOTS_MAX {
        for point in points {
            dot(&mut svg, frame.place(*point));
        }
    }
    Some(figure(svg, title))
}

/// A class and its points.
pub(super) type Curve = (String, Vec<(f64, f64)>);

/// ROC curves of classes by their names: true positives over false positives, from (0, 0) to (1, 1).
pub(super) fn roc(curves: &[Curve]) -> String {
    let frame = Frame { low: (0.0, 0.0), high: (1.0, 1.0) };
    let names: Vec<&str> = curves.iter().map(|(name, _)| name.as_str()).collect();
    let mut svg = open("ROC", &format!("ROC of {}", names.join(", ")));
    for tick in [0.0, 0.5, 1.0] {
        let (left, y) = frame.place((0.0, tick));
        line(&mut svg, "grid", (left, y), frame.place((1.0, tick)));
        label(&mut svg, "end", (left - 6.0, y + 4.0), &short(tick));
        let (x, down) = frame.place((tick, 0.0));
        label(&mut svg, "middle", (x, down + 18.0), &short(tick));
    }
    line(&mut svg, "chance", frame.place((0.0, 0.0)), frame.place((1.0, 1.0)));
    for (number, (_, points)) in (1..=CURVES).zip(curves) {
        let points = frame.points(points);
        append(
            &mut svg,
            format_args!("<polyline class=\"curve curve-{number}\" points=\"{points}\"/>"),
        );
    }
    figure(
        svg,
        "share of the class that is found, over the share of the others that is taken for it",
    )
}

/// An interval with its value, on a line from 0 to 1.
pub(super) fn interval(value: f64, ends: Option<(f64, f64)>) -> String {
    let at = |share: f64| 4.0 + 152.0 * share.clamp(0.0, 1.0);
    let mut svg = String::from(
        "<svg width=\"160\" height=\"16\" viewBox=\"0 0 160 16\" aria-hidden=\"true\">",
    );
    line(&mut svg, "axis", (4.0, 8.0), (156.0, 8.0));
    if let Some((low, high)) = ends {
        line(&mut svg, "range", (at(low), 8.0), (at(high), 8.0));
    }
    dot(&mut svg, (at(value), 8.0));
    svg + "</svg>"
}

/// Two to seven round numbers from at or below `low` to at or above `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    let unit = 10_f64.powf((span / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit);
    let step = steps.into_iter().find(|step| span / step <= 4.0).unwrap_or(10.0 * unit);
    let first = (low / step).floor();
    let mut ticks = Vec::new();
    for number in 0..=6_u32 {
        let tick = (first + f64::from(number)) * step;
        ticks.push(tick);
        if number > 0 && tick >= high {
            break;
        }
    }
    ticks
}

/// A tick without the digits that a sum of binary fractions leaves.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn open(title: &str, said: &str) -> String {
    format!(
        "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{}\"><title>{}</title>",
        text(said),
        text(title)
    )
}

fn figure(svg: String, caption: &str) -> String {
    let caption = text(caption);
    format!("<figure>{svg}</svg><figcaption class=\"soft\">{caption}</figcaption></figure>\n")
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    append(
        svg,
        format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ),
    );
}

fn dot(svg: &mut String, (x, y): (f64, f64)) {
    append(svg, format_args!("<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"));
}

fn label(svg: &mut String, anchor: &str, (x, y): (f64, f64), words: &str) {
    let words = text(words);
    append(
        svg,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        for (low, high) in [(0.0, 1.0), (0.612, 0.988), (3.2, 3.2), (-5.0, 1234.0), (1e-7, 2e-7)] {
            let ticks = ticks(low, high);
            let ends = (*ticks.first().unwrap(), *ticks.last().unwrap());
            assert!(ends.0 <= low + 1e-12 && ends.1 >= high - 1e-12, "{low} {high}: {ticks:?}");
            assert!((2..=7).contains(&ticks.len()), "{ticks:?}");
        }
        assert_eq!(
            ticks(0.62, 0.98).iter().copied().map(short).collect::<Vec<_>>(),
            ["0.6", "0.7", "0.8", "0.9", "1"]
        );
    }

    #[test]
    fn a_curve_is_drawn_within_its_frame_and_says_where_it_ends() {
        let points: Vec<(f64, f64)> = (0..5).map(|i| (f64::from(i), f64::from(i) / 5.0)).collect();
        let svg = over_versions("loss <of> v", &points).unwrap();
        assert!(svg.contains("loss &lt;of&gt; v from version 0 to 4: 0.0000 to 0.8000"), "{svg}");
        let list = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let numbers: Vec<f64> =
            list.split([' ', ',']).map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 10);
        assert!(numbers.chunks(2).all(|at| (0.0..=WIDTH).contains(&at[0])), "{numbers:?}");
        assert!(numbers.chunks(2).all(|at| (0.0..=HEIGHT).contains(&at[1])), "{numbers:?}");
        assert!(numbers.windows(4).step_by(2).all(|at| at[0] < at[2] && at[1] > at[3]));
    }

    #[test]
    fn one_version_and_a_value_that_is_none_give_no_curve() {
        assert!(over_versions("a", &[(0.0, 1.0)]).is_none());
        assert!(over_versions("a", &[(0.0, 1.0), (1.0, f64::INFINITY)]).is_none());
        assert!(over_versions("a", &[]).is_none());
    }
}
