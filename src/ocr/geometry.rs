//! Rectangles, and the way back from the pixels that Tesseract saw to those that were sent.

use serde::{Deserialize, Serialize};

/// A rectangle of pixels: `left` and `top` belong to it, `right` and `bottom` do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// The first column.
    pub left: u32,
    /// The first row.
    pub top: u32,
    /// The column after the last.
    pub right: u32,
    /// The row after the last.
    pub bottom: u32,
}

impl Rect {
    /// How many columns it has.
    pub fn width(self) -> u32 {
        self.right - self.left
    }

    /// How many rows it has.
    pub fn height(self) -> u32 {
        self.bottom - self.top
    }

    /// The smallest rectangle around both.
    pub fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

/// A quarter turn, clockwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// As it is.
    #[default]
    None,
    /// By 90 degrees clockwise.
    Right,
    /// By 180 degrees.
    Half,
    /// By 270 degrees clockwise.
    Left,
}

impl Turn {
    /// The turn by a number of degrees clockwise, if it is one of the four.
    pub fn from_degrees(degrees: i32) -> Option<Self> {
        match degrees {
            0 => Some(Self::None),
            90 => Some(Self::Right),
            180 => Some(Self::Half),
            270 => Some(Self::Left),
            _ => None,
        }
    }

    /// In degrees clockwise.
    pub fn degrees(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Right => 90,
            Self::Half => 180,
            Self::Left => 270,
        }
    }

    /// One turn after another.
    pub fn then(self, other: Self) -> Self {
        let degrees = (self.degrees() + other.degrees()) % 360;
        Self::from_degrees(degrees as i32).unwrap_or_default()
    }
}

/// A straight mapping from one picture's points to another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    x: [f64; 3],
    y: [f64; 3],
}

impl Affine {
    /// Every point stays where it is.
    pub const IDENTITY: Self = Self { x: [1.0, 0.0, 0.0], y: [0.0, 1.0, 0.0] };

    /// Stretches from the corner at the left and top.
    pub fn scale(x: f64, y: f64) -> Self {
        Self { x: [x, 0.0, 0.0], y: [0.0, y, 0.0] }
    }

    /// Turns clockwise, as seen on a screen, around a centre, which comes to lie on another.
    pub fn rotate(radians: f64, centre: (f64, f64), to: (f64, f64)) -> Self {
        let (sin, cos) = radians.sin_cos();
        let x = to.0 - cos * centre.0 + sin * centre.1;
        let y = to.1 - sin * centre.0 - cos * centre.1;
        Self { x: [cos, -sin, x], y: [sin, cos, y] }
    }

    /// From the points of a picture that was turned to those of the one before, which had this
    /// width and height.
    pub fn undo(turn: Turn, width: u32, height: u32) -> Self {
        let (width, height) = (f64::from(width), f64::from(height));
        match turn {
            Turn::None => Self::IDENTITY,
            Turn::Right => Self { x: [0.0, 1.0, 0.0], y: [-1.0, 0.0, height] },
            Turn::Half => Self { x: [-1.0, 0.0, width], y: [0.0, -1.0, height] },
            Turn::Left => Self { x: [0.0, -1.0, width], y: [1.0, 0.0, 0.0] },
        }
    }

    /// This mapping, then another.
    pub fn then(self, next: Self) -> Self {
        let combine = |row: [f64; 3]| {
            [
                row[0] * self.x[0] + row[1] * self.y[0],
                row[0] * self.x[1] + row[1] * self.y[1],
                row[0] * self.x[2] + row[1] * self.y[2] + row[2],
            ]
        };
        Self { x: combine(next.x), y: combine(next.y) }
    }

    /// Where a point comes to lie.
    pub fn point(self, x: f64, y: f64) -> (f64, f64) {
        let at = |row: [f64; 3]| row[0] * x + row[1] * y + row[2];
        (at(self.x), at(self.y))
    }

    /// The smallest rectangle around where a rectangle comes to lie, within a picture of this
    /// width and height.
    pub fn rect(self, rect: Rect, width: u32, height: u32) -> Rect {
        let (left, top) = (f64::from(rect.left), f64::from(rect.top));
        let (right, bottom) = (f64::from(rect.right), f64::from(rect.bottom));
        let corners = [(left, top), (right, top), (left, bottom), (right, bottom)];
        let corners = corners.map(|(x, y)| self.point(x, y));
        let least = |of: fn(&(f64, f64)) -> f64| corners.iter().map(of).fold(f64::MAX, f64::min);
        let most = |of: fn(&(f64, f64)) -> f64| corners.iter().map(of).fold(f64::MIN, f64::max);
        // Half a pixel at most is lost or won: what is nearer than that is the same pixel.
        let within = |value: f64, most: u32| value.round().clamp(0.0, f64::from(most)) as u32;
        Rect {
            left: within(least(|point| point.0), width),
            top: within(least(|point| point.1), height),
            right: within(most(|point| point.0), width),
            bottom: within(most(|point| point.1), height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECT: Rect = Rect { left: 10, top: 20, right: 40, bottom: 30 };

    #[test]
    fn undoing_a_turn_finds_the_pixel_again() {
        // A picture of 100 x 50 with a word at RECT, turned: where the word is then, and back.
        let turned = [
            (Turn::None, RECT),
            (Turn::Right, Rect { left: 20, top: 10, right: 30, bottom: 40 }),
            (Turn::Half, Rect { left: 60, top: 20, right: 90, bottom: 30 }),
            (Turn::Left, Rect { left: 20, top: 60, right: 30, bottom: 90 }),
        ];
        for (turn, rect) in turned {
            assert_eq!(Affine::undo(turn, 100, 50).rect(rect, 100, 50), RECT, "{turn:?}");
        }
    }

    #[test]
    fn mappings_follow_one_another() {
        let half = Affine::scale(0.5, 0.5);
        let both = half.then(Affine::undo(Turn::Half, 100, 50));
        let rect = Rect { left: 120, top: 40, right: 180, bottom: 60 };
        assert_eq!(both.rect(rect, 100, 50), RECT);
    }

    #[test]
    fn a_rotation_back_and_forth_is_none() {
        let there = Affine::rotate(0.1, (50.0, 25.0), (60.0, 30.0));
        let back = Affine::rotate(-0.1, (60.0, 30.0), (50.0, 25.0));
        let (x, y) = there.then(back).point(7.0, 9.0);
        assert!((x - 7.0).abs() < 1e-9 && (y - 9.0).abs() < 1e-9, "{x} {y}");
    }
}
