"""Writes the types of what UniFFI generates, for type checkers and editors.

    stubs.py mimimi.py fields.json > __init__.pyi

UniFFI annotates its calls. It makes the variants of an enum subclasses of it only at run time, says
no types in errors, and writes no documentation of fields: that is in `fields.json`.
"""

import ast
import json
import sys
from pathlib import Path

ERROR_TYPES = {
    "String": "str",
    "SequenceString": "typing.List[str]",
    "OptionalString": "typing.Optional[str]",
    "OptionalUInt64": "typing.Optional[int]",
    "TypeFault": "Fault",
}
# By type, variant and field, as their letters.
FIELDS: dict[str, str] = {}


def about(*names: str) -> str:
    """The documentation of a field."""
    text = FIELDS.get(".".join(names).replace("_", "").lower())
    return f'"""{text}"""\n' if text else ""


def read(path: Path) -> dict[str, ast.stmt]:
    """What the module defines by name: the last definition of each."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found.setdefault(statement.targets[0].id, statement)
    return found


def indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())


def documented(node: ast.AST) -> str:
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    text = ast.get_docstring(node)
    return f'"""{text}"""\n' if text else ""


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = function.args
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [it and ast.Constant(...) for it in arguments.kw_defaults]
    kind = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    returns = ast.unparse(function.returns) if function.returns else "None"
    decorators = "".join(f"@{ast.unparse(it)}\n" for it in function.decorator_list)
    shown = ast.unparse(arguments).replace("typing.Union[object, ", "typing.Union[")
    head = f"{decorators}{kind} {function.name}({shown}) -> {returns}:"
    text = documented(function)
    return f"{head}\n{indented(text + '...')}" if text else f"{head} ...\n"


def methods(of: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = [it for it in of.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [it for it in functions if not it.name.startswith("_")]


def record(of: ast.ClassDef, base: str = "") -> str:
    """A class that is made of its fields: a variant of another one, if that is its base."""
    path = [base, of.name] if base else [of.name]
    [init] = [it for it in of.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"]
    fields = [*init.args.args[1:], *init.args.kwonlyargs]
    body = documented(of)
    for field in fields:
        assert field.annotation
        body += f"{field.arg}: {ast.unparse(field.annotation)}\n" + about(*path, field.arg)
    bases = f"({base})" if base else ""
    return f"class {of.name}{bases}:\n{indented(body + signature(init))}"


def choice(of: ast.ClassDef) -> str:
    """An enum without fields."""
    body = documented(of)
    for statement in of.body:
        if isinstance(statement, ast.Assign):
            body += f"{ast.unparse(statement)}\n"
        elif isinstance(statement, ast.Expr) and "=" in body:
            assert isinstance(statement.value, ast.Constant)
            body += f'"""{str(statement.value.value).strip()}"""\n'
    return f"class {of.name}(enum.Enum):\n{indented(body)}"


def variants(of: ast.ClassDef) -> str:
    """An enum with fields."""
    nested = [it for it in of.body if isinstance(it, ast.ClassDef)]
    body = documented(of) + "".join(record(it, of.name) for it in nested)
    return f"class {of.name}:\n{indented(body)}"


def error(of: ast.ClassDef, converter: ast.ClassDef) -> str:
    """Its types are those of the converters that read it."""
    text = ast.unparse(converter)
    body = documented(of)
    shared: set[str] | None = None
    inner = ""
    for variant in [it for it in of.body if isinstance(it, ast.ClassDef)]:
        functions = [it for it in variant.body if isinstance(it, ast.FunctionDef)]
        [init] = [it for it in functions if it.name == "__init__"]
        names = [argument.arg for argument in init.args.args[1:]]
        _, _, after = text.partition(f"return {of.name}.{variant.name}(")
        read_by = after.partition("\n")[0].split("_UniffiFfiConverter")[1:]
        types = [ERROR_TYPES[it.partition(".")[0]] for it in read_by]
        fields = [f"{name}: {kind}" for name, kind in zip(names, types, strict=True)]
        shared = set(fields) if shared is None else shared & set(fields)
        made = f"def __init__(self, {', '.join(fields)}) -> None: ...\n"
        members = documented(variant)
        for name, field in zip(names, fields, strict=True):
            members += f"{field}\n" + about(of.name, variant.name, name)
        members += made
        inner += f"class {variant.name}({of.name}):\n{indented(members)}"
    common = "".join(f"{field}\n" for field in sorted(shared or ()))
    return f"class {of.name}(Exception):\n{indented(body + common + inner)}"


def calls(of: ast.ClassDef, is_made: bool) -> str:
    """An object of the library, which calls make, or what an application implements for it."""
    # No type checker lets anybody make one by its name.
    made = "def __init__(self, made_by_calls: typing.Never, /) -> None: ...\n" if is_made else ""
    body = documented(of) + made + "".join(signature(it) for it in methods(of))
    return f"class {of.name}:\n{indented(body)}"


def stub(name: str, found: dict[str, ast.stmt]) -> str:
    node = found[name]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return signature(node)
    if isinstance(node, ast.Assign):
        return f"{name}: typing.TypeAlias = {ast.unparse(node.value)}\n"
    assert isinstance(node, ast.ClassDef)
    if any(isinstance(it, ast.ClassDef) for it in node.body):
        converter = found[f"_UniffiFfiConverterType{name}"]
        assert isinstance(converter, ast.ClassDef)
        is_error = f"_UniffiTemp{name}" in found
        return error(node, converter) if is_error else variants(node)
    if any(ast.unparse(it) == "enum.Enum" for it in node.bases):
        return choice(node)
    if any(ast.unparse(it) == "dataclass" for it in node.decorator_list):
        return record(node)
    return calls(node, f"_UniffiFfiConverterType{name}" in found and f"{name}Impl" not in found)


def main() -> None:
    found = read(Path(sys.argv[1]))
    for name, text in json.loads(Path(sys.argv[2]).read_text()).items():
        FIELDS[name.replace("_", "").lower()] = text
    exported = found["__all__"]
    assert isinstance(exported, ast.Assign)
    names = [name for name in ast.literal_eval(exported.value) if not name.endswith("Protocol")]
    for hidden in ("InternalError", "TransferListenerImpl", "WaitListenerImpl"):
        names.remove(hidden)
    assigned = [name for name, it in found.items() if isinstance(it, ast.Assign)]
    aliases = [name for name in assigned if name[0].isupper()]
    print('"""Generated by bindings/python/stubs.py: do not change."""\n')
    print("import enum\nimport typing\n")
    for name in sorted([*names, *aliases]):
        print(stub(name, found))


main()
