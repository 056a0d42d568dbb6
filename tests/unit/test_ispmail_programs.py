"""Which program reads a parameter, and which parameters take tables."""

import pytest

import ispmail_programs


@pytest.mark.parametrize(
    "parameter, programs",
    [
        ("virtual_alias_maps", ("smtpd", "cleanup")),
        ("virtual_mailbox_domains", ("trivial-rewrite", "smtpd")),
        ("virtual_uid_maps", ("virtual",)),
        ("sender_dependent_relayhost_maps", ("trivial-rewrite",)),
        ("smtpd_sender_login_maps", ("smtpd",)),
        ("smtp_sasl_password_maps", ("smtp",)),
        ("alias_maps", ("local", "smtpd")),
        ("header_checks", ("cleanup",)),
        # One that we do not know: those that ask for every mail.
        ("access_of_ours", ("smtpd", "cleanup", "trivial-rewrite")),
    ],
)
def test_programs_of(parameter, programs):
    assert ispmail_programs.programs_of(parameter) == programs


@pytest.mark.parametrize(
    "parameter, is_own, reason",
    [
        ("virtual_alias_maps", False, None),
        ("mydestination", False, None),
        ("relay_domains", False, None),
        ("header_checks", False, None),
        ("access_of_ours", True, None),
        *(
            (name, False, "is a list of restrictions")
            for name in ("smtpd_sender_restrictions", "postscreen_access_list")
        ),
        *((name, False, "does not take lookup tables") for name in ("soft_bounce", "mail_owner", "inet_interfaces")),
        ("command_directory", False, "does not take lookup tables"),
        ("relay_destination_concurrency_limit", True, "does not take lookup tables"),
    ],
)
def test_table_fault(parameter, is_own, reason):
    fault = ispmail_programs.table_fault(parameter, "maps:x:parameter", is_own)
    assert (fault is None) if reason is None else (reason in str(fault) and fault.fix)
