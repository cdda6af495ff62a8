"""Currencies: which there are, how many decimals each has, and moving between major and minor units.

Belongs here: exponents and exact conversion. Does not: rounding (`rounding`), exchange rates: amounts of two currencies
are never added.
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact

from stripemeter.errors import InvalidInput

EXACT = Context(prec=200, traps=[Inexact])
"""Arithmetic that refuses to lose a digit. Quantities have 38 digits and unit prices as many: 200 is never reached."""

_CURRENCIES = {
    0: "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF",
    2: """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY COP CRC CVE
    CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR ISK JMD KES KGS KHR KYD KZT
    LAK LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN
    QAR RON RSD RUB SAR SBD SCR SEK SGD SHP SLE SOS SRD STD SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG
    YER ZAR ZMW
    """,
    3: "BHD JOD KWD OMR TND",
}
"""Source: docs.stripe.com/currencies: presentment, zero-decimal and three-decimal currencies. ISK is sent with two."""
_EXPONENTS = {code: exponent for exponent, codes in _CURRENCIES.items() for code in codes.split()}


def parse_currency(code: object, field: str) -> str:
    """The currency of a code in any case, upper case.

    Raises:
        InvalidInput: no currency Stripe bills in; or UGX, which Stripe's page lists as zero-decimal and also asks for
            with two decimals: a price could be wrong a hundredfold.
    """
    name = code.upper() if isinstance(code, str) else ""
    if name == "UGX":
        raise InvalidInput(f"{field}: Stripe's pages contradict each other on the decimals of UGX", field=field)
    if name not in _EXPONENTS:
        raise InvalidInput(f"{field}: unknown currency {code!r:.40}; expected a code like 'USD'", field=field)
    return name


def exponent_of(currency: str) -> int:
    """Decimals of a known currency: 2 for USD, 0 for JPY, 3 for KWD."""
    return _EXPONENTS[currency]


def to_major(minor: Decimal | int, currency: str) -> Decimal:
    """Major units of an amount in minor units, every digit: 1050 USD is 10.50."""
    return Decimal(minor).scaleb(-_EXPONENTS[currency], EXACT)


def to_minor(major: Decimal, currency: str) -> Decimal:
    """Minor units of an amount in major units, every digit: 10.505 USD is 1050.5."""
    return major.scaleb(_EXPONENTS[currency], EXACT)
