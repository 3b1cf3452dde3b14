"""What a dedicated or serverless pool of Synapse, and a warehouse of Fabric, refuse: numbers and texts of the server's.

A connection to a database named as a product is refused what that product refuses; `dw` is a SQL Server, which takes
all of it. Each rule, with the vendor's page that says so, is listed in docs/azure-rules.md. Where a page names no error
number, the number is that of the engine's nearest message, and the list says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BULK = "ADMINISTER DATABASE BULK OPERATIONS"
QUOTED = re.compile(r"\[(?:[^\]]|\]\])*\]|\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'")
PRODUCTS = ("synapse", "serverless", "fabric")


class ServerError(Exception):
    """An error as SQL Server numbers them."""

    def __init__(self, number: int, severity: int, text: str) -> None:
        super().__init__(text)
        self.number, self.severity = number, severity


@dataclass(frozen=True)
class Rule:
    """`pattern` in a statement is refused on `products` with an error; `where` says in which state of the session."""

    name: str
    products: tuple[str, ...]
    pattern: re.Pattern[str]
    number: int
    text: str
    where: str = ""


def _rule(name: str, products: str, pattern: str, number: int, text: str, where: str = "") -> Rule:
    return Rule(name, tuple(products.split()), re.compile(pattern, re.IGNORECASE | re.DOTALL), number, text, where)


PARSE = "Parse error at line: 1, column: {at}: Incorrect syntax near '{word}'."
EDITION = "The {word} is not supported in this edition of SQL Server."
RULES = (
    _rule("ddl in a transaction", "synapse", r"^\s*(create|alter|drop|truncate|copy|rename)\b", 111212,
          "Operation cannot be performed within a transaction.", "transaction"),
    _rule("copy in a transaction", "fabric", r"^\s*copy\b", 226,
          "COPY INTO statement not allowed within multi-statement transaction.", "transaction"),
    _rule("bulk right", "synapse fabric", r"^\s*copy\s+into\b", 4834,
          "You do not have permission to use the bulk load statement.", "no bulk right"),
    _rule("bulk right", "serverless", r"\bopenrowset\s*\(\s*bulk\b", 4834,
          "You do not have permission to use the bulk load statement.", "no bulk right"),
    _rule("parquet by identity over dfs", "synapse",
          r"^\s*copy\s+into\b.*\bfrom\s+'(?!https://[^/']+\.dfs\.)[^']*'"
          r".*file_type\s*=\s*'(?:parquet|orc)'.*managed identity",
          105215, "Not able to validate external location because Managed Identity with this file type needs the .dfs "
          "endpoint in the external location path."),
    _rule("copy from storage", "fabric",
          r"^\s*copy\s+into\b.*\bfrom\s+'(?!https://[^/']+\.(?:dfs|blob)\.)[^']*'", 13807,
          "Content of directory on path cannot be listed: the path is no https address of storage."),
    _rule("identity of copy", "fabric", r"^\s*copy\s+into\b.*\b(managed identity)\b", 13840,
          "The credential identity '{word}' is not supported."),
    _rule("double precision", "synapse fabric", r"\b(double)\s+precision\b", 103010, PARSE),
    _rule("merge", "synapse", r"^\s*(merge)\b", 103010, PARSE),
    _rule("openjson", "synapse", r"\b(openjson)\s*\(", 103010, PARSE),
    _rule("application locks", "synapse fabric", r"\b(sp_getapplock)\b", 2812,
          "Could not find stored procedure '{word}'."),
    _rule("create or alter view", "synapse", r"^\s*create\s+(or)\s+alter\b", 103010, PARSE),
    _rule("rows in one insert", "synapse", r"^\s*insert\b.*\bvalues\s*\([^()]*\)\s*(,)\s*\(", 103010, PARSE),
    _rule("enforced key", "synapse",
          r"^\s*(?:create|alter)\s+table\b.*\b(?:primary\s+key|unique)\b(?!.*\bnot\s+enforced\b)", 104467,
          "Enforced unique constraints are not supported. To create an unenforced unique constraint you must include "
          "the NOT ENFORCED syntax as part of your statement."),
    _rule("default expression", "synapse", r"^\s*create\s+table\b.*\bdefault\s+[a-z_]+\s*\(", 104309,
          "An expression is not supported as a column default; it must be a constant."),
    _rule("tables", "serverless", r"^\s*(?:create\s+table|insert|update|delete|merge|copy)\b", 15868,
          "The statement is not supported in this edition: the pool stores no rows."),
    _rule("distribution and index", "fabric", r"\b(distribution|clustered\s+columnstore\s+index|heap)\b(?=.*\))", 24574,
          "The keyword '{word}' is not supported in this edition of SQL Server."),
    _rule("key in create table", "fabric", r"^\s*create\s+table\b.*\b(primary\s+key|unique)\b", 24574,
          "The keyword '{word}' is not supported in this edition of SQL Server."),
    _rule("enforced key", "fabric",
          r"^\s*alter\s+table\b.*\b(primary\s+key|unique)\b(?!\s+nonclustered\b.*\bnot\s+enforced\b)", 24574,
          "The constraint '{word}' is not supported in this edition of SQL Server."),
    _rule("default", "fabric", r"^\s*(?:create|alter)\s+table\b.*\s(default)\b", 24574,
          "The keyword '{word}' is not supported in this edition of SQL Server."),
    _rule("types", "fabric",
          r"^\s*(?:create|alter)\s+table\b.*[\]\"\s](nvarchar|nchar|datetime|smalldatetime|tinyint|money|ntext|text|image)\b",
          24574, "The data type '{word}' is not supported in this edition of SQL Server."),
    _rule("datetime2 of 7 digits", "fabric", r"^\s*(?:create|alter)\s+table\b.*\b(datetime2)\b(?!\s*\([0-6]\))", 24597,
          "The data type '{word}' needs a scale of at most 6."),
    _rule("alter column", "fabric", r"^\s*alter\s+table\b.*\b(alter\s+column)\b", 24584,
          "The specified ALTER TABLE statement is not supported in this edition of SQL Server."),
    _rule("new columns are nullable", "fabric",
          r"^\s*alter\s+table\b.*\badd\s+(?!constraint)[^,]*\bnot\s+null\b", 24584,
          "The specified ALTER TABLE statement is not supported in this edition of SQL Server."),
    _rule("rowgroups and statistics by hand", "fabric", r"^\s*alter\s+index\b", 24574,
          "The statement 'ALTER INDEX' is not supported in this edition of SQL Server."),
)  # fmt: skip


def _bare(found: re.Match[str]) -> str:
    """Names and texts without what would look like a keyword; an address, an identity and a format as they are."""
    word = found[0]
    if word.startswith("'"):
        return word if "://" in word or len(word) < 30 else "''"
    return f"{word[0]}x{word[-1]}"


def refuse(product: str, statement: str, *, in_transaction: bool, bulk: bool) -> None:
    """Raises ServerError when `product` refuses `statement` in this state: in a transaction, with the right to bulk."""
    state = {"": True, "transaction": in_transaction, "no bulk right": not bulk}
    bare = QUOTED.sub(_bare, statement)
    for rule in RULES:
        if product in rule.products and state[rule.where] and (found := rule.pattern.search(bare)):
            word = found[1] if found.groups() else ""
            raise ServerError(rule.number, 16, rule.text.format(at=found.start(1) + 1 if word else 1, word=word))


def refuse_delta(features: list[str], reader: int, table: str) -> None:
    """Raises ServerError when a serverless pool does not read a Delta table of this protocol."""
    if features or reader > 1:
        name = (features or ["column mapping"])[0]
        raise ServerError(19726, 16, f"Feature '{name}' is not supported for table '{table}'.")
