//! Renders a template for one client.

use super::expressions::Expr;
use super::filters::filter;
use super::methods::method;
use super::parser::Node;
use super::predicates::test;
use super::value::{Loop, Record, Value};
use super::{AUTH, JinjaResult, MAX_TEXT, PORTAL, Variables, unsupported};

/// Maximum number of steps of a template; real ones take fewer than ten.
const MAX_STEPS: u32 = 10_000;

/// Maximum total size of all values that a template creates, in bytes: a single step may
/// process a whole text or list, and a list can contain another one twice.
const MAX_MEMORY: usize = 1024 * 1024;

/// Attributes that an object has in Python in addition to those of the contract: methods of
/// dictionaries and of pydantic's models, which Jinja2 would print.
const METHODS: [&str; 34] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
    "construct",
    "dict",
    "fields",
    "from_orm",
    "json",
    "parse_file",
    "parse_obj",
    "parse_raw",
    "schema",
    "schema_json",
    "update_forward_refs",
    "validate",
    "model_computed_fields",
    "model_config",
    "model_construct",
    "model_copy",
    "model_dump",
    "model_dump_json",
    "model_extra",
    "model_fields",
    "model_json_schema",
    "model_validate",
    "model_fields_set",
];

pub(super) fn render(nodes: &[Node], variables: &Variables<'_>) -> JinjaResult<String> {
    let mut state = State {
        variables,
        frames: vec![Vec::new()],
        steps_left: MAX_STEPS,
        memory_left: MAX_MEMORY,
    };
    let mut out = String::new();
    state.nodes(nodes, &mut out)?;
    Ok(out)
}

struct State<'a> {
    variables: &'a Variables<'a>,
    /// Names set so far, innermost scope last.
    frames: Vec<Vec<(String, Value)>>,
    steps_left: u32,
    memory_left: usize,
}

impl State<'_> {
    fn step(&mut self) -> JinjaResult<()> {
        self.steps_left =
            self.steps_left.checked_sub(1).ok_or(unsupported("the template takes too long"))?;
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], out: &mut String) -> JinjaResult<()> {
        for node in nodes {
            self.step()?;
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(expr) => match self.eval(expr)? {
                    Value::Text(text) | Value::Markup(text) => out.push_str(&text),
                    value => out.push_str(&value.print()?),
                },
                Node::If(branches, otherwise) => self.branch(branches, otherwise, out)?,
                Node::For { target, over, body, otherwise } => {
                    let members = self.eval(over)?.members()?;
                    if members.is_empty() {
                        self.scoped(Vec::new(), otherwise, out)?;
                    }
                    self.iterate(target, members, body, out)?;
                }
                Node::Set(name, expr) => {
                    let value = self.eval(expr)?;
                    self.set(name, value);
                }
                Node::SetBlock(name, body) => {
                    let mut text = String::new();
                    self.scoped(Vec::new(), body, &mut text)?;
                    self.set(name, Value::text(text)?);
                }
            }
            if out.len() > MAX_TEXT {
                return Err(unsupported("the value grows too long"));
            }
        }
        Ok(())
    }

    fn branch(
        &mut self,
        branches: &[(Expr, Vec<Node>)],
        otherwise: &[Node],
        out: &mut String,
    ) -> JinjaResult<()> {
        for (condition, nodes) in branches {
            if self.eval(condition)?.is_true() {
                return self.nodes(nodes, out);
            }
        }
        self.nodes(otherwise, out)
    }

    fn iterate(
        &mut self,
        target: &str,
        members: Vec<Value>,
        body: &[Node],
        out: &mut String,
    ) -> JinjaResult<()> {
        let length = i64::try_from(members.len()).unwrap_or(i64::MAX);
        for (index, member) in (0..).zip(members) {
            self.step()?;
            let place = Value::Loop(Loop { index, length });
            let frame = vec![("loop".to_owned(), place), (target.to_owned(), member)];
            self.scoped(frame, body, out)?;
        }
        Ok(())
    }

    fn scoped(
        &mut self,
        frame: Vec<(String, Value)>,
        nodes: &[Node],
        out: &mut String,
    ) -> JinjaResult<()> {
        self.frames.push(frame);
        let rendered = self.nodes(nodes, out);
        self.frames.pop();
        rendered
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(frame) = self.frames.last_mut() {
            frame.retain(|(other, _)| other != name);
            frame.push((name.to_owned(), value));
        }
    }

    fn variable(&self, name: &str) -> Value {
        let set = self.frames.iter().rev().flatten().find(|(other, _)| other == name);
        match (set, name) {
            (Some((_, value)), _) => value.clone(),
            (None, "auth") => Value::Record(&AUTH),
            (None, "portal") => Value::Record(&PORTAL),
            (None, _) => Value::Undefined,
        }
    }

    fn all(&mut self, exprs: &[Expr]) -> JinjaResult<Vec<Value>> {
        exprs.iter().map(|expr| self.eval(expr)).collect()
    }

    fn eval(&mut self, expr: &Expr) -> JinjaResult<Value> {
        self.step()?;
        let value = self.value(expr)?;
        let memory_left = self.memory_left.checked_sub(value.size());
        self.memory_left = memory_left.ok_or(unsupported("the template uses too much memory"))?;
        Ok(value)
    }

    fn value(&mut self, expr: &Expr) -> JinjaResult<Value> {
        match expr {
            Expr::Value(value) => Ok(value.clone()),
            Expr::Variable(name) => Ok(self.variable(name)),
            Expr::List(members) => Ok(Value::List(self.all(members)?)),
            Expr::Tuple(members) => Ok(Value::Tuple(self.all(members)?)),
            Expr::Attribute(of, name) => {
                let of = self.eval(of)?;
                self.attribute(&of, name)
            }
            Expr::Item(of, item) => {
                let (of, item) = (self.eval(of)?, self.eval(item)?);
                self.item(&of, &item)
            }
            Expr::Slice(of, bounds) => {
                let of = self.eval(of)?;
                let mut limits = [None; 3];
                for (limit, bound) in limits.iter_mut().zip(bounds) {
                    *limit = match bound.as_ref().map(|bound| self.eval(bound)).transpose()? {
                        None | Some(Value::None) => None,
                        Some(Value::Integer(number)) => Some(number),
                        Some(_) => return Err(unsupported("slice bounds must be whole numbers")),
                    };
                }
                slice(&of, limits)
            }
            Expr::Method(of, name, arguments) => {
                let (of, arguments) = (self.eval(of)?, self.all(arguments)?);
                method(&of, name, &arguments)
            }
            Expr::Filter(of, name, arguments) => {
                let of = self.eval(of)?;
                let positional = self.all(&arguments.positional)?;
                let mut named = Vec::new();
                for (name, expr) in &arguments.named {
                    named.push((name.as_str(), self.eval(expr)?));
                }
                filter(&of, name, &positional, &named)
            }
            Expr::Test(of, name, arguments) => {
                let (of, arguments) = (self.eval(of)?, self.all(arguments)?);
                Ok(Value::Bool(test(&of, name, &arguments)?))
            }
            Expr::Not(of) => Ok(Value::Bool(!self.eval(of)?.is_true())),
            Expr::Negate(of) => negate(&self.eval(of)?),
            Expr::Plus(of) => {
                let number = self.eval(of)?.integer().map(Value::Integer);
                number.ok_or(unsupported("only whole numbers have a sign"))
            }
            Expr::Binary(left, operator, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                binary(&left, operator, &right)
            }
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    text.push_str(&self.eval(part)?.print()?);
                }
                Value::text(text)
            }
            Expr::Compare(first, further) => self.compare(first, further),
            Expr::And(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { self.eval(right) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { Ok(left) } else { self.eval(right) }
            }
            Expr::If { test, then, otherwise } => {
                if self.eval(test)?.is_true() {
                    self.eval(then)
                } else {
                    otherwise.as_ref().map_or(Ok(Value::Undefined), |expr| self.eval(expr))
                }
            }
        }
    }

    /// `a < b < c` is `a < b and b < c`.
    fn compare(&mut self, first: &Expr, further: &[(&'static str, Expr)]) -> JinjaResult<Value> {
        let mut left = self.eval(first)?;
        for (operator, right) in further {
            let right = self.eval(right)?;
            let holds = match *operator {
                "==" => left.equals(&right)?,
                "!=" => !left.equals(&right)?,
                "<" => left.order(&right)?.is_lt(),
                "<=" => left.order(&right)?.is_le(),
                ">" => left.order(&right)?.is_gt(),
                ">=" => left.order(&right)?.is_ge(),
                "in" => right.contains(&left)?,
                _ => !right.contains(&left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn attribute(&self, of: &Value, name: &str) -> JinjaResult<Value> {
        match of {
            Value::Record(record) => self.field(record, name),
            Value::Loop(Loop { index, length }) => match name {
                "index" => Ok(Value::Integer(index + 1)),
                "index0" => Ok(Value::Integer(*index)),
                "revindex" => Ok(Value::Integer(length - index)),
                "revindex0" => Ok(Value::Integer(length - index - 1)),
                "first" => Ok(Value::Bool(*index == 0)),
                "last" => Ok(Value::Bool(index + 1 == *length)),
                "length" => Ok(Value::Integer(*length)),
                _ => Err(unsupported("`loop` has no such attribute")),
            },
            _ => Err(unsupported("only `auth` and `portal` have attributes")),
        }
    }

    fn field(&self, record: Record, name: &str) -> JinjaResult<Value> {
        if !record.contains(&name) {
            return if name.starts_with('_') || METHODS.contains(&name) {
                Err(unsupported("this attribute is not a text"))
            } else {
                Ok(Value::Undefined)
            };
        }
        let value =
            if *record == AUTH { self.variables.auth(name) } else { self.variables.portal(name) };
        // This may exceed `MAX_TEXT`; the length of the rendered value is checked later.
        Ok(Value::Text(value.to_owned()))
    }

    fn item(&self, of: &Value, item: &Value) -> JinjaResult<Value> {
        match (of, item) {
            (Value::Record(record), Value::Text(name)) => self.field(record, name),
            (Value::Text(_) | Value::List(_) | Value::Tuple(_), Value::Integer(index)) => {
                let mut members = of.members()?;
                let length = of.length()?;
                let index = if *index < 0 { index + length } else { *index };
                let index = usize::try_from(index).ok().filter(|index| *index < members.len());
                Ok(index.map_or(Value::Undefined, |index| members.swap_remove(index)))
            }
            _ => Err(unsupported("this value has no such item")),
        }
    }
}

/// `of[start:stop:step]`
fn slice(of: &Value, [start, stop, step]: [Option<i64>; 3]) -> JinjaResult<Value> {
    if matches!(of, Value::Undefined) {
        return Err(unsupported("an undefined value cannot be sliced"));
    }
    let (length, step) = (of.length()?, step.unwrap_or(1));
    if step == 0 {
        return Err(unsupported("the step of a slice must not be zero"));
    }
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i64>, otherwise: i64| match bound {
        None => otherwise,
        Some(bound) if bound < 0 => (bound + length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    let (first, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut at, stop) = (bound(start, first), bound(stop, end));
    // Members of a text are texts; `portal.id[:6]` is in the headers of most apps.
    if let (Value::Text(text), 1) = (of, step) {
        let [from, count] = [at, stop - at].map(|number| usize::try_from(number).unwrap_or(0));
        return Ok(Value::Text(text.chars().skip(from).take(count).collect()));
    }
    let members = of.members()?;
    let mut selected = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        if let Some(member) = usize::try_from(at).ok().and_then(|at| members.get(at)) {
            selected.push(member.clone());
        }
        at = at.saturating_add(step);
    }
    match of {
        Value::Text(_) => {
            let mut text = String::new();
            for member in selected {
                text.push_str(&member.print()?);
            }
            Ok(Value::Text(text))
        }
        Value::List(_) => Ok(Value::List(selected)),
        _ => Ok(Value::Tuple(selected)),
    }
}

fn negate(of: &Value) -> JinjaResult<Value> {
    match of {
        Value::Float(number) => Ok(Value::Float(-number)),
        other => {
            let number = other.integer().and_then(i64::checked_neg).map(Value::Integer);
            number.ok_or(unsupported("only numbers can be negated"))
        }
    }
}

fn binary(left: &Value, operator: &str, right: &Value) -> JinjaResult<Value> {
    let error = unsupported("this cannot be computed");
    match (left, right) {
        (Value::Text(one), Value::Text(two)) if operator == "+" => {
            return Value::text(format!("{one}{two}"));
        }
        (Value::Text(text), number) | (number, Value::Text(text)) if operator == "*" => {
            let times = number.integer().ok_or(error)?;
            let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
            if text.len().saturating_mul(times) > MAX_TEXT {
                return Err(unsupported("a text grows too long"));
            }
            return Value::text(text.repeat(times));
        }
        (Value::List(one), Value::List(two)) if operator == "+" => {
            return Ok(Value::List([one.as_slice(), two].concat()));
        }
        _ => {}
    }
    if let (Some(one), Some(two)) = (left.integer(), right.integer())
        && operator != "/"
    {
        let result = match operator {
            "+" => one.checked_add(two),
            "-" => one.checked_sub(two),
            "*" => one.checked_mul(two),
            // Rounds towards minus infinity, and the remainder has the sign of the divisor.
            "//" => one.checked_rem(two).zip(one.checked_div(two)).map(|(rest, quotient)| {
                if rest != 0 && (rest < 0) != (two < 0) { quotient - 1 } else { quotient }
            }),
            "%" => one
                .checked_rem(two)
                .map(|rest| if rest != 0 && (rest < 0) != (two < 0) { rest + two } else { rest }),
            "**" => u32::try_from(two).ok().and_then(|two| one.checked_pow(two)),
            _ => None,
        };
        return result.map(Value::Integer).ok_or(error);
    }
    let (Some(one), Some(two)) = (left.float(), right.float()) else { return Err(error) };
    let result = match operator {
        "+" => one + two,
        "-" => one - two,
        "*" => one * two,
        "/" if two != 0.0 => one / two,
        _ => return Err(error),
    };
    Ok(Value::Float(result))
}
