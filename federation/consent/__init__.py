"""Consent records after ISO/IEC TS 27560:2023, receipts for the person, and statements read from files. Pure."""
