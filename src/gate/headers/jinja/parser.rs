//! Parses the statements of a template.

use super::expressions::{Expr, Tokens};
use super::lexer::{Piece, pieces};
use super::{JinjaResult, MAX_DEPTH, unsupported};

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    /// Conditions with the body of each, and the body of `else`.
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

pub(super) fn parse(source: &str) -> JinjaResult<Vec<Node>> {
    let mut pieces = pieces(source)?.into_iter();
    let mut parser = Blocks { pieces: &mut pieces, depth: 0, loops: 0 };
    match parser.body(&[])? {
        (nodes, None) => Ok(nodes),
        (_, Some(_)) => Err(unsupported("unexpected end of a statement")),
    }
}

/// A statement that ends a body, with the remaining tokens of its tag.
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
    /// Parses all nodes up to one of the given statements, or to the end.
    fn body(&mut self, ends: &[&str]) -> JinjaResult<(Vec<Node>, Option<End>)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("statements are nested too deeply"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Print(tokens) => {
                    nodes.push(Node::Print(Tokens::new(tokens, self.loops).whole_expression()?));
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

    fn end(&mut self, ends: &[&str]) -> JinjaResult<(Vec<Node>, End)> {
        let (nodes, end) = self.body(ends)?;
        Ok((nodes, end.ok_or(unsupported("a statement has no end"))?))
    }

    fn statement(&mut self, word: &str, tokens: Tokens) -> JinjaResult<Node> {
        match word {
            "if" => self.condition(tokens),
            "for" => self.iteration(tokens),
            "set" => self.assignment(tokens),
            _ => Err(unsupported("only if, for, set and raw are supported as statements")),
        }
    }

    fn condition(&mut self, tokens: Tokens) -> JinjaResult<Node> {
        let mut branches = Vec::new();
        let mut test = tokens.condition()?;
        loop {
            let (nodes, End { word, tokens }) = self.end(&["elif", "else", "endif"])?;
            branches.push((test, nodes));
            match word.as_str() {
                "elif" => test = tokens.condition()?,
                "else" => {
                    tokens.expect_end()?;
                    let (nodes, End { tokens, .. }) = self.end(&["endif"])?;
                    tokens.expect_end()?;
                    return Ok(Node::If(branches, nodes));
                }
                _ => {
                    tokens.expect_end()?;
                    return Ok(Node::If(branches, Vec::new()));
                }
            }
        }
    }

    fn iteration(&mut self, mut tokens: Tokens) -> JinjaResult<Node> {
        let target = tokens.target()?;
        if !tokens.accept_name("in") {
            return Err(unsupported("only one variable can be looped over"));
        }
        // Jinja2 would read an `if` here as the filter of the loop.
        let over = tokens.disjunction()?;
        tokens.expect_end()?;
        self.loops += 1;
        let (body, End { word, tokens }) = self.end(&["else", "endfor"])?;
        self.loops -= 1;
        tokens.expect_end()?;
        let mut otherwise = Vec::new();
        if word == "else" {
            let (nodes, End { tokens, .. }) = self.end(&["endfor"])?;
            tokens.expect_end()?;
            otherwise = nodes;
        }
        Ok(Node::For { target, over, body, otherwise })
    }

    fn assignment(&mut self, mut tokens: Tokens) -> JinjaResult<Node> {
        let target = tokens.target()?;
        if tokens.accept("=") {
            return Ok(Node::Set(target, tokens.whole_expression()?));
        }
        tokens.expect_end()?;
        let (nodes, End { tokens, .. }) = self.end(&["endset"])?;
        tokens.expect_end()?;
        Ok(Node::SetBlock(target, nodes))
    }
}
