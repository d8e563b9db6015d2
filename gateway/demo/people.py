"""Invented people: attributes, the answer to an offer, identifiers, and whose customers they are.

The label follows ``acceptance_chance``, a logistic model whose interactions a plain logistic regression cannot fully
represent. Partners differ in whom they serve (bank: younger, insurer: older, airline: wealthier), which is why each one
alone learns a poorer model than all together.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

FICTIONAL_NUMBERS = 80_000  # 800 area codes times 555-0100 to 555-0199
FIRST_NAMES = ("ana", "ben", "chen", "dora", "emil", "fatima", "goran", "hana", "ines", "jonas", "kai", "lin", "mei")
LAST_NAMES = ("almeida", "bauer", "costa", "deng", "evers", "faria", "guo", "huber", "jansen", "koh", "lopes", "wang")
JOBS = {
    "management": 0.21,
    "technician": 0.17,
    "blue-collar": 0.22,
    "admin.": 0.12,
    "services": 0.10,
    "self-employed": 0.05,
    "entrepreneur": 0.04,
    "unemployed": 0.04,
    "housemaid": 0.04,
    "unknown": 0.01,
}

Floats = npt.NDArray[np.float64]


def acceptance_chance(people: pd.DataFrame) -> Floats:
    """The chance that a person takes the offer; about 13 % on average.

    Args:
        people: Attributes, one row a person.

    Returns:
        One probability a row, strictly between 0 and 1.
    """
    age, success = people["age"].to_numpy(), (people["poutcome"] == "success").to_numpy()
    wealth = np.clip(np.log10(1 + people["balance"].clip(lower=0).to_numpy()) / 4, 0, 1.25)
    young, old = age < 30, age >= 58
    owes_home, owes = people["housing"].to_numpy(), people["loan"].to_numpy()
    job, education = people["job"], people["education"]
    logit = (
        -2.70
        + 0.75 * young
        + 0.10 * old
        + 0.80 * (job == "student").to_numpy()
        + 0.30 * (job == "management").to_numpy()
        - 0.50 * (job == "blue-collar").to_numpy()
        + 0.40 * (education == "tertiary").to_numpy()
        + 0.20 * (people["marital"] == "single").to_numpy()
        + 0.70 * wealth
        - 0.65 * owes_home
        - 0.55 * owes
        - 0.80 * people["in_default"].to_numpy()
        + 0.25 * (people["previous"] > 0).to_numpy()
        + 2.10 * success
        # Interactions: money moves the older and not the young, a home loan holds back the young and not the older,
        # an earlier success counts less with debts.
        + 1.90 * old * wealth
        - 0.80 * young * wealth
        - 1.10 * young * owes_home
        + 0.60 * old * owes_home
        - 0.70 * success * owes
    )
    chance: Floats = 1 / (1 + np.exp(-logit))
    return chance


def draw_people(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Attributes and label of ``count`` invented people."""
    age = np.clip(18 + rng.gamma(3.2, 7.6, count), 18, 94).astype(int)
    job = rng.choice(list(JOBS), count, p=list(JOBS.values()))
    job = np.where((age < 27) & (rng.random(count) < 0.35), "student", job)
    job = np.where((age >= 60) & (rng.random(count) < 0.70), "retired", job)
    schooled = rng.random(count) + 0.25 * (job == "management") - 0.15 * np.isin(job, ["blue-collar", "housemaid"])
    education = np.select(
        [schooled > 0.70, schooled > 0.20, schooled > 0.03], ["tertiary", "secondary", "primary"], "unknown"
    )
    settled = rng.random(count)
    alone = np.clip(0.95 - 0.022 * (age - 18), 0.08, 0.95)
    marital = np.select([settled < alone, settled > 0.88], ["single", "divorced"], "married")
    centre = 6.0 + 0.022 * (age - 40) + 0.5 * (education == "tertiary") - 0.3 * (job == "unemployed")
    balance = np.round(np.exp(rng.normal(centre, 1.15)) - rng.gamma(1.0, 180.0, count)).astype(int)
    housing = rng.random(count) < np.where((age >= 26) & (age < 56), 0.62, 0.22)
    loan = rng.random(count) < 0.16
    in_default = rng.random(count) < np.where(balance < 0, 0.09, 0.006)
    contacted = rng.random(count) < 0.20
    table = pd.DataFrame(
        {
            "age": age,
            "job": job,
            "marital": marital,
            "education": education,
            "in_default": in_default.astype(int),
            "balance": balance,
            "housing": housing.astype(int),
            "loan": loan.astype(int),
            "pdays": np.where(contacted, rng.integers(1, 400, count), -1),
            "previous": np.where(contacted, 1 + rng.poisson(1.3, count), 0),
            "poutcome": np.where(
                contacted, rng.choice(["failure", "other", "success"], count, p=[0.6, 0.18, 0.22]), "unknown"
            ),
        }
    )
    table["accepted_offer"] = (rng.random(count) < acceptance_chance(table)).astype(int)
    return table


def membership_chances(people: pd.DataFrame) -> dict[str, Floats]:
    """The chance of being each partner's customer: the skew that makes the partners' files differ."""
    age, wealth = people["age"].to_numpy(), people["balance"].rank(pct=True).to_numpy()
    return {
        "bank": np.select([age < 40, age < 58], [0.82, 0.45], 0.14),
        "insurer": np.select([age < 35, age < 55], [0.05, 0.38], 0.85),
        "airline": 0.05 + 0.75 * wealth**3,
    }


def draw_identifiers(count: int, rng: np.random.Generator) -> tuple[pd.Series, pd.Series]:
    """One e-mail address and one phone number (E.164) a person, all different."""
    serial = rng.permutation(10 * count)[:count]
    first, last = rng.choice(FIRST_NAMES, count), rng.choice(LAST_NAMES, count)
    emails = [f"{f}.{n}{s}@example.{('com', 'org', 'net')[s % 3]}" for f, n, s in zip(first, last, serial, strict=True)]
    if count <= FICTIONAL_NUMBERS:
        slots = rng.permutation(FICTIONAL_NUMBERS)[:count]
        phones = [f"+1{200 + slot // 100}55501{slot % 100:02d}" for slot in slots]
    else:  # more than the fictional block holds: a country code that nobody has
        phones = [f"+999{s:011d}" for s in serial]
    return pd.Series(emails), pd.Series(phones)


def spell_email(address: str, way: int) -> str:
    """The address as one of four careless people would type it."""
    return (address, address.upper(), f"  {address} ", address.title())[way]


def spell_phone(number: str, way: int) -> str:
    """The number as one of four careless people would type it."""
    if not number.startswith("+1"):
        return number
    area, exchange, line = number[2:5], number[5:8], number[8:]
    return (number, f"00{number[1:]}", f"+1 ({area}) {exchange}-{line}", f"+1-{area}-{exchange}-{line}")[way]
