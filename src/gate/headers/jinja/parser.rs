//! A template's text and statements.

use super::expressions::{Expr, Tokens};
use super::lexer::{Piece, pieces};
use super::{Checked, MAX_DEPTH, unsupported};

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    /// Conditions with what follows from each, and what follows from none.
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    For {
        target: String,
        over: Expr,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Set(String, Expr),
    SetBlock(String, Vec<Node>),
}

pub(super) fn parse(source: &str) -> Checked<Vec<Node>> {
    let mut pieces = pieces(source)?.into_iter();
    let mut parser = Blocks { pieces: &mut pieces, depth: 0, loops: 0 };
    match parser.body(&[])? {
        (nodes, None) => Ok(nodes),
        (_, Some(_)) => Err(unsupported("a statement ends what did not begin")),
    }
}

/// A statement that ends a body, with the rest of its tag.
struct End {
    word: String,
    tokens: Tokens,
}

struct Blocks<'a> {
    pieces: &'a mut std::vec::IntoIter<Piece>,
    depth: u8,
    loops: u8,
}

impl Blocks<'_> {
    /// Everything up to one of the words, or to the end.
    fn body(&mut self, ends: &[&str]) -> Checked<(Vec<Node>, Option<End>)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("statements are nested too deeply"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Print(tokens) => {
                    nodes.push(Node::Print(Tokens::new(tokens, self.loops).whole()?));
                }
                Piece::Statement(tokens) => {
                    let mut tokens = Tokens::new(tokens, self.loops);
                    let word = tokens.name()?;
                    if ends.contains(&word.as_str()) {
                        self.depth -= 1;
                        return Ok((nodes, Some(End { word, tokens })));
                    }
                    nodes.push(self.statement(&word, tokens)?);
                }
            }
        }
        self.depth -= 1;
        if ends.is_empty() { Ok((nodes, None)) } else { Err(unsupported("a statement has no end")) }
    }

    fn end(&mut self, ends: &[&str]) -> Checked<(Vec<Node>, End)> {
        let (nodes, end) = self.body(ends)?;
        Ok((nodes, end.ok_or(unsupported("a statement has no end"))?))
    }

    fn statement(&mut self, word: &str, tokens: Tokens) -> Checked<Node> {
        match word {
            "if" => self.condition(tokens),
            "for" => self.iteration(tokens),
            "set" => self.assignment(tokens),
            _ => Err(unsupported("only if, for, set and raw are supported as statements")),
        }
    }

    fn condition(&mut self, tokens: Tokens) -> Checked<Node> {
        let mut branches = Vec::new();
        let mut test = tokens.condition()?;
        loop {
            let (nodes, End { word, tokens }) = self.end(&["elif", "else", "endif"])?;
            branches.push((test, nodes));
            match word.as_str() {
                "elif" => test = tokens.condition()?,
                "else" => {
                    tokens.nothing()?;
                    let (nodes, End { tokens, .. }) = self.end(&["endif"])?;
                    tokens.nothing()?;
                    return Ok(Node::If(branches, nodes));
                }
                _ => {
                    tokens.nothing()?;
                    return Ok(Node::If(branches, Vec::new()));
                }
            }
        }
    }

    fn iteration(&mut self, mut tokens: Tokens) -> Checked<Node> {
        let target = tokens.target()?;
        if !tokens.takes_name("in") {
            return Err(unsupported("only one variable can be looped over"));
        }
        // Jinja2 takes an `if` there for a filter of the loop.
        let over = tokens.disjunction()?;
        tokens.nothing()?;
        self.loops += 1;
        let (body, End { word, tokens }) = self.end(&["else", "endfor"])?;
        self.loops -= 1;
        tokens.nothing()?;
        let mut otherwise = Vec::new();
        if word == "else" {
            let (nodes, End { tokens, .. }) = self.end(&["endfor"])?;
            tokens.nothing()?;
            otherwise = nodes;
        }
        Ok(Node::For { target, over, body, otherwise })
    }

    fn assignment(&mut self, mut tokens: Tokens) -> Checked<Node> {
        let target = tokens.target()?;
        if tokens.takes("=") {
            return Ok(Node::Set(target, tokens.whole()?));
        }
        tokens.nothing()?;
        let (nodes, End { tokens, .. }) = self.end(&["endset"])?;
        tokens.nothing()?;
        Ok(Node::SetBlock(target, nodes))
    }
}
