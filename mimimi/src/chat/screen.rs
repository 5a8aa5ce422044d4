//! How the state looks. Text from others is shown, never obeyed: every line goes through
//! [`escape`], and a line that a text begins is marked as its continuation.

use basis::http_date;
use client::{Gone, Message, MessageState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use super::state::{Chat, Mode, Place};
use crate::messages::says;
use crate::terminal::{Name, escape, fold};

const LIST: u16 = 24;
/// `HH:MM `
const TIME: usize = 6;

pub(super) fn draw(frame: &mut Frame<'_>, chat: &mut Chat) {
    let [list, conversation] =
        Layout::horizontal([Constraint::Max(LIST), Constraint::Fill(1)]).areas(frame.area());
    let [said, input, status] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(3),
        Constraint::Length(1),
    ])
    .areas(conversation);
    draw_list(frame, list, chat);
    draw_said(frame, said, chat);
    draw_input(frame, input, chat);
    let words = match chat.status() {
        "" => chat.hint(),
        status => status.to_owned(),
    };
    let words = words.lines().next().unwrap_or_default().to_owned();
    frame.render_widget(Line::styled(words, Style::new().dim()), status);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, chat: &Chat) {
    let places = chat.groups().iter().map(|group| {
        let place = Place::Group(group.name.clone());
        (place, escape(&group.name), group.active)
    });
    let places = std::iter::once((Place::News, "news".to_owned(), true)).chain(places);
    let mut front = 0;
    let lines: Vec<Line<'_>> = places
        .enumerate()
        .map(|(at, (place, name, active))| {
            let unseen = match chat.unseen(&place) {
                0 => String::new(),
                unseen => format!(" ({unseen})"),
            };
            let mut style = Style::new();
            if !unseen.is_empty() {
                style = style.add_modifier(Modifier::BOLD);
            }
            if !active {
                style = style.add_modifier(Modifier::DIM);
            }
            if place == *chat.place() {
                front = at;
                style = style.add_modifier(Modifier::REVERSED);
            }
            Line::styled(format!("{name}{unseen}"), style)
        })
        .collect();
    let height = usize::from(area.height).saturating_sub(1);
    let above = u16::try_from(front.saturating_sub(height)).unwrap_or(u16::MAX);
    let block = Block::new().borders(Borders::RIGHT);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((above, 0)), area);
}

fn draw_said(frame: &mut Frame<'_>, area: Rect, chat: &mut Chat) {
    let columns = usize::from(area.width).max(1);
    let lines = match chat.place() {
        Place::News if chat.news().is_empty() && chat.groups().is_empty() => first_steps(),
        Place::News => chat
            .news()
            .iter()
            .flat_map(|line| folded(line, columns))
            .map(Line::from)
            .collect(),
        Place::Group(_) => conversation(chat, columns),
    };
    let height = usize::from(area.height);
    let most = lines.len().saturating_sub(height);
    chat.back = chat.back.min(most);
    chat.at_first = chat.back == most;
    let from = most.saturating_sub(chat.back);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(from).take(height).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

fn first_steps() -> Vec<Line<'static>> {
    [
        "Nothing here yet.",
        "",
        "/handle register NAME    be found by others",
        "/connect NAME            ask somebody for a connection",
        "/requests                who asks you; /requests --accept ID",
        "/group create GROUP      make a group",
        "/group add GROUP NAME    bring a contact into it",
        "",
        "Tab leads from one conversation to the next.",
    ]
    .map(Line::from)
    .to_vec()
}

fn folded(text: &str, columns: usize) -> Vec<String> {
    fold(text, columns).lines().map(str::to_owned).collect()
}

fn conversation(chat: &Chat, columns: usize) -> Vec<Line<'static>> {
    let messages = chat.messages().iter().enumerate().rev();
    messages
        .flat_map(|(at, message)| {
            let chosen = chat.mode == Mode::Choose(at);
            let answered = message.details.reply_to.and_then(|id| {
                let all = chat.messages().iter();
                all.into_iter().find(|it| it.message == id)
            });
            lines_of(message, answered, columns)
                .into_iter()
                .map(move |line| if chosen { line.reversed() } else { line })
        })
        .collect()
}

fn lines_of(message: &Message, answered: Option<&Message>, columns: usize) -> Vec<Line<'static>> {
    let time = http_date::format(message.at_ms);
    let time = time.get(17..22).unwrap_or("     ").to_owned();
    let name = Name(&message.sender).to_string();
    let text = match message.gone {
        Some(Gone::Deleted) => "(deleted)",
        Some(_) => "(expired)",
        None => &message.text,
    };
    let mut details = message.details.clone();
    if answered.is_some() {
        details.reply_to = None;
    }
    let mut lines = Vec::new();
    if let Some(answered) = answered {
        let quoted = escape(&says(
            &Name(&answered.sender).to_string(),
            &answered.text,
            &answered.details,
        ));
        let quoted = format!("      ↳ {}", quoted.lines().next().unwrap_or_default());
        let first = folded(&quoted, columns).into_iter().next();
        lines.push(Line::styled(first.unwrap_or_default(), Style::new().dim()));
    }
    let mut marks = match message.state {
        MessageState::Waiting => " (waits)",
        MessageState::Failed => " (not sent)",
        _ => "",
    }
    .to_owned();
    if message.edited && message.gone.is_none() {
        marks.push_str(" (edited)");
    }
    if details.expires.is_some() && message.gone.is_none() {
        marks.push_str(" (expires)");
    }
    // Before the text, where no text can say the same.
    let said = says(&format!("{name}{marks}"), text, &details);
    let said = escape(&format!("{time} {said}"));
    let colour = match message.own {
        true => Style::new().add_modifier(Modifier::BOLD),
        false => Style::new()
            .add_modifier(Modifier::BOLD)
            .fg(colour(&message.sender)),
    };
    for (at, line) in folded(&said, columns).into_iter().enumerate() {
        let name_ends = TIME.saturating_add(name.len());
        let parts = (at == 0)
            .then(|| {
                Some((
                    line.get(..TIME)?,
                    line.get(TIME..name_ends)?,
                    line.get(name_ends..)?,
                ))
            })
            .flatten();
        lines.push(match parts {
            Some((time, name, rest)) => Line::from(vec![
                Span::styled(time.to_owned(), Style::new().dim()),
                Span::styled(name.to_owned(), colour),
                Span::raw(rest.to_owned()),
            ]),
            None => Line::from(line),
        });
    }
    let reactions = message.reactions.iter().map(|reaction| {
        let shown: Vec<String> = reaction.reactions.iter().map(|it| escape(it)).collect();
        format!("      {} {}", shown.join(" "), Name(&reaction.sender))
    });
    let receipts = message.receipts.iter().map(|receipt| {
        let what = if receipt.read {
            "read by"
        } else {
            "arrived at"
        };
        format!("      {what} {}", Name(&receipt.reader))
    });
    for line in reactions.chain(receipts) {
        let shown = folded(&escape(&line), columns).into_iter();
        lines.extend(shown.map(|line| Line::styled(line, Style::new().dim())));
    }
    lines
}

/// The same for a name as often as it is shown; which one says nothing.
fn colour(name: &str) -> Color {
    const COLOURS: [Color; 6] = [
        Color::Cyan,
        Color::Green,
        Color::Magenta,
        Color::Yellow,
        Color::Blue,
        Color::Red,
    ];
    let sum = name.bytes().fold(0usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    COLOURS
        .get(sum % COLOURS.len())
        .copied()
        .unwrap_or(Color::Reset)
}

fn draw_input(frame: &mut Frame<'_>, area: Rect, chat: &Chat) {
    let title = match chat.place() {
        Place::News => String::new(),
        Place::Group(name) => format!(" {} ", escape(name)),
    };
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let width = usize::from(inner.width).saturating_sub(1);
    let above = chat.input.visual_scroll(width);
    // A line feed has a place of its own, so that the cursor stands where it is.
    let shown: String = chat
        .input
        .value()
        .chars()
        .map(|it| if it == '\n' { '⏎' } else { it })
        .collect();
    let left = u16::try_from(above).unwrap_or(u16::MAX);
    frame.render_widget(Paragraph::new(shown).scroll((0, left)).block(block), area);
    if !matches!(chat.mode, Mode::Choose(_) | Mode::Delete(_)) {
        let column = chat.input.visual_cursor().saturating_sub(above).min(width);
        let column = u16::try_from(column).unwrap_or(u16::MAX);
        frame.set_cursor_position(Position::new(inner.x.saturating_add(column), inner.y));
    }
}
