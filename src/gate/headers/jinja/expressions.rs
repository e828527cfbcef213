//! Parses the expressions of a template, with the precedences of Jinja2's own parser.

use super::filters::FILTERS;
use super::lexer::Token;
use super::predicates::TESTS;
use super::value::Value;
use super::{JinjaError, JinjaResult, MAX_DEPTH, MAX_OPERATORS, unsupported};

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Value(Value),
    Variable(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Method(Box<Expr>, String, Vec<Expr>),
    Filter(Box<Expr>, String, Arguments),
    Test(Box<Expr>, String, Vec<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    Binary(Box<Expr>, &'static str, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(&'static str, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    If { test: Box<Expr>, then: Box<Expr>, otherwise: Option<Box<Expr>> },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
}

/// Names that have a meaning in Jinja2 without being a variable, or that a template must not
/// set.
const RESERVED: [&str; 25] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "elif",
    "else",
    "for",
    "self",
    "super",
    "caller",
    "varargs",
    "kwargs",
    "range",
    "dict",
    "lipsum",
    "cycler",
    "joiner",
    "namespace",
    "context",
    "environment",
    "true",
    "false",
    "none",
];

/// The tokens of one tag.
pub(super) struct Tokens {
    rest: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: u8,
    operators: u8,
    /// Whether `loop` is defined.
    in_loop: bool,
}

impl Tokens {
    pub(super) fn new(tokens: Vec<Token>, loops: u8) -> Self {
        Self { rest: tokens.into_iter().peekable(), depth: 0, operators: 0, in_loop: loops > 0 }
    }

    /// Parses one expression that must be followed by the end of the tag.
    pub(super) fn whole_expression(mut self) -> JinjaResult<Expr> {
        let expr = self.expression()?;
        self.expect_end()?;
        Ok(expr)
    }

    /// Parses the condition of a statement, which must not contain a conditional expression.
    pub(super) fn condition(mut self) -> JinjaResult<Expr> {
        let expr = self.disjunction()?;
        self.expect_end()?;
        Ok(expr)
    }

    pub(super) fn expect_end(mut self) -> JinjaResult<()> {
        match self.rest.next() {
            None => Ok(()),
            Some(_) => Err(unsupported("expected the end of the tag")),
        }
    }

    pub(super) fn accept(&mut self, symbol: &str) -> bool {
        let is_symbol = |token: &Token| matches!(token, Token::Symbol(found) if *found == symbol);
        self.rest.next_if(is_symbol).is_some()
    }

    /// Counts an operator that takes the preceding expression as its operand.
    fn operator(&mut self) -> JinjaResult<()> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return Err(unsupported("the expression is too long"));
        }
        Ok(())
    }

    fn accept_any(&mut self, symbols: &[&'static str]) -> Option<&'static str> {
        symbols.iter().copied().find(|symbol| self.accept(symbol))
    }

    fn next_is_name(&mut self, name: &str) -> bool {
        matches!(self.rest.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn accept_name(&mut self, name: &str) -> bool {
        self.rest.next_if(|token| matches!(token, Token::Name(found) if found == name)).is_some()
    }

    pub(super) fn name(&mut self) -> JinjaResult<String> {
        match self.rest.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(unsupported("expected a name")),
        }
    }

    fn expect(&mut self, symbol: &str, problem: JinjaError) -> JinjaResult<()> {
        if self.accept(symbol) { Ok(()) } else { Err(problem) }
    }

    /// Parses the name of a variable that a template may set.
    pub(super) fn target(&mut self) -> JinjaResult<String> {
        let name = self.name()?;
        let is_builtin =
            ["auth", "portal", "loop", "True", "False", "None"].contains(&name.as_str());
        if is_builtin || RESERVED.contains(&name.as_str()) || name.starts_with('_') {
            return Err(unsupported("this name cannot be set"));
        }
        Ok(name)
    }

    fn expression(&mut self) -> JinjaResult<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("the expression is nested too deeply"));
        }
        let mut expr = self.disjunction()?;
        while self.accept_name("if") {
            self.operator()?;
            let test = Box::new(self.disjunction()?);
            let otherwise =
                if self.accept_name("else") { Some(Box::new(self.expression()?)) } else { None };
            expr = Expr::If { test, then: Box::new(expr), otherwise };
        }
        self.depth -= 1;
        Ok(expr)
    }

    pub(super) fn disjunction(&mut self) -> JinjaResult<Expr> {
        let mut left = self.conjunction()?;
        while self.accept_name("or") {
            self.operator()?;
            left = Expr::Or(Box::new(left), Box::new(self.conjunction()?));
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> JinjaResult<Expr> {
        let mut left = self.negation()?;
        while self.accept_name("and") {
            self.operator()?;
            left = Expr::And(Box::new(left), Box::new(self.negation()?));
        }
        Ok(left)
    }

    fn negation(&mut self) -> JinjaResult<Expr> {
        if !self.accept_name("not") {
            return self.comparison();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("the expression is nested too deeply"));
        }
        let negated = self.negation()?;
        self.depth -= 1;
        Ok(Expr::Not(Box::new(negated)))
    }

    fn comparison(&mut self) -> JinjaResult<Expr> {
        let left = self.sum()?;
        let mut comparisons = Vec::new();
        loop {
            let operator =
                if let Some(symbol) = self.accept_any(&["==", "!=", ">=", "<=", ">", "<"]) {
                    symbol
                } else if self.accept_name("in") {
                    "in"
                } else if self.next_is_name("not") {
                    // After an operand, `not` can only begin `not in`.
                    self.rest.next();
                    if !self.accept_name("in") {
                        return Err(unsupported("expected `in` after `not`"));
                    }
                    "not in"
                } else {
                    break;
                };
            comparisons.push((operator, self.sum()?));
        }
        Ok(if comparisons.is_empty() { left } else { Expr::Compare(Box::new(left), comparisons) })
    }

    fn sum(&mut self) -> JinjaResult<Expr> {
        let mut left = self.concatenation()?;
        while let Some(operator) = self.accept_any(&["+", "-"]) {
            self.operator()?;
            left = Expr::Binary(Box::new(left), operator, Box::new(self.concatenation()?));
        }
        Ok(left)
    }

    fn concatenation(&mut self) -> JinjaResult<Expr> {
        let first = self.product()?;
        let mut parts = vec![first];
        while self.accept("~") {
            parts.push(self.product()?);
        }
        Ok(if parts.len() > 1 { Expr::Concat(parts) } else { parts.remove(0) })
    }

    fn product(&mut self) -> JinjaResult<Expr> {
        let mut left = self.power()?;
        while let Some(operator) = self.accept_any(&["*", "//", "/", "%"]) {
            self.operator()?;
            left = Expr::Binary(Box::new(left), operator, Box::new(self.power()?));
        }
        Ok(left)
    }

    fn power(&mut self) -> JinjaResult<Expr> {
        let mut left = self.unary(true)?;
        while self.accept("**") {
            self.operator()?;
            left = Expr::Binary(Box::new(left), "**", Box::new(self.unary(true)?));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> JinjaResult<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unsupported("the expression is nested too deeply"));
        }
        let mut expr = match self.accept_any(&["-", "+"]) {
            Some("-") => Expr::Negate(Box::new(self.unary(false)?)),
            Some(_) => Expr::Plus(Box::new(self.unary(false)?)),
            None => self.primary()?,
        };
        expr = self.postfix(expr)?;
        if with_filters {
            expr = self.filters(expr)?;
        }
        self.depth -= 1;
        Ok(expr)
    }

    fn primary(&mut self) -> JinjaResult<Expr> {
        match self.rest.next() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => Ok(Expr::Value(Value::Bool(true))),
                "false" | "False" => Ok(Expr::Value(Value::Bool(false))),
                "none" | "None" => Ok(Expr::Value(Value::None)),
                "loop" if !self.in_loop => Err(unsupported("`loop` is only available in a loop")),
                _ if RESERVED.contains(&name.as_str()) || name.starts_with('_') => {
                    Err(unsupported("only the variables of `auth` and `portal` are supported"))
                }
                _ => Ok(Expr::Variable(name)),
            },
            Some(Token::Text(mut text)) => {
                let is_text = |token: &Token| matches!(token, Token::Text(_));
                while let Some(Token::Text(more)) = self.rest.next_if(is_text) {
                    text.push_str(&more);
                }
                Ok(Expr::Value(Value::Text(text)))
            }
            Some(Token::Integer(number)) => Ok(Expr::Value(Value::Integer(number))),
            Some(Token::Float(number)) => {
                let number = number.parse().map_err(|_| unsupported("invalid number"))?;
                Ok(Expr::Value(Value::Float(number)))
            }
            Some(Token::Symbol("(")) => self.parenthesis(),
            Some(Token::Symbol("[")) => Ok(Expr::List(self.members("]")?)),
            _ => Err(unsupported("expected a variable or a value")),
        }
    }

    fn parenthesis(&mut self) -> JinjaResult<Expr> {
        if self.accept(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        let first = self.expression()?;
        if self.accept(")") {
            return Ok(first);
        }
        self.expect(",", unsupported("a `)` is missing"))?;
        let mut members = vec![first];
        members.extend(self.members(")")?);
        Ok(Expr::Tuple(members))
    }

    /// Parses expressions separated by commas, with an optional trailing comma.
    fn members(&mut self, end: &str) -> JinjaResult<Vec<Expr>> {
        let mut members = Vec::new();
        while !self.accept(end) {
            members.push(self.expression()?);
            if !self.accept(",") {
                self.expect(end, unsupported("a list has no end"))?;
                break;
            }
        }
        Ok(members)
    }

    fn postfix(&mut self, mut expr: Expr) -> JinjaResult<Expr> {
        loop {
            expr = if self.accept(".") {
                let name = self.name()?;
                if self.accept("(") {
                    Expr::Method(Box::new(expr), name, self.members(")")?)
                } else {
                    Expr::Attribute(Box::new(expr), name)
                }
            } else if self.accept("[") {
                self.subscript(expr)?
            } else {
                return Ok(expr);
            };
            self.operator()?;
        }
    }

    fn subscript(&mut self, of: Expr) -> JinjaResult<Expr> {
        let mut bounds = [None, None, None];
        let mut at = 0;
        loop {
            if self.accept("]") {
                break;
            }
            if self.accept(":") {
                at += 1;
                if at > 2 {
                    return Err(unsupported("a subscript has too many parts"));
                }
                continue;
            }
            if bounds[at].is_some() {
                return Err(unsupported("a subscript is not closed"));
            }
            bounds[at] = Some(Box::new(self.expression()?));
        }
        match (at, bounds) {
            (0, [Some(item), _, _]) => Ok(Expr::Item(Box::new(of), item)),
            (0, _) => Err(unsupported("a subscript is empty")),
            (_, bounds) => Ok(Expr::Slice(Box::new(of), bounds)),
        }
    }

    fn filters(&mut self, mut expr: Expr) -> JinjaResult<Expr> {
        loop {
            if self.accept("|") {
                let name = self.name()?;
                if !FILTERS.contains(&name.as_str()) {
                    return Err(unsupported("this filter is not supported"));
                }
                let arguments =
                    if self.accept("(") { self.arguments()? } else { Arguments::default() };
                expr = Expr::Filter(Box::new(expr), name, arguments);
            } else if self.accept_name("is") {
                expr = self.test(expr)?;
            } else {
                return Ok(expr);
            }
            self.operator()?;
        }
    }

    fn arguments(&mut self) -> JinjaResult<Arguments> {
        let mut arguments = Arguments::default();
        while !self.accept(")") {
            let expr = self.expression()?;
            match expr {
                Expr::Variable(name) if self.accept("=") => {
                    arguments.named.push((name, self.expression()?));
                }
                _ if !arguments.named.is_empty() => {
                    return Err(unsupported("a positional argument follows a named one"));
                }
                expr => arguments.positional.push(expr),
            }
            if !self.accept(",") {
                self.expect(")", unsupported("arguments have no end"))?;
                break;
            }
        }
        Ok(arguments)
    }

    fn test(&mut self, of: Expr) -> JinjaResult<Expr> {
        let is_negated = self.accept_name("not");
        let name = self.name()?;
        if !TESTS.contains(&name.as_str()) {
            return Err(unsupported("this test is not supported"));
        }
        let starts_argument = match self.rest.peek() {
            Some(Token::Name(name)) => !["else", "or", "and"].contains(&name.as_str()),
            Some(Token::Text(_) | Token::Integer(_) | Token::Float(_) | Token::Symbol("[")) => true,
            _ => false,
        };
        let arguments = if self.accept("(") {
            self.members(")")?
        } else if self.next_is_name("is") {
            return Err(unsupported("a test cannot follow another test"));
        } else if starts_argument {
            let argument = self.primary()?;
            vec![self.postfix(argument)?]
        } else {
            Vec::new()
        };
        let test = Expr::Test(Box::new(of), name, arguments);
        Ok(if is_negated { Expr::Not(Box::new(test)) } else { test })
    }
}
