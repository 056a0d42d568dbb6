"""Which program reads a parameter, and which parameters take tables."""

import pytest

import _ispmail_programs


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
    assert _ispmail_programs.programs_of(parameter) == programs


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
        ("local_login_sender_maps", False, "is read by postdrop(1), as the local user who runs it"),
        ("authorized_submit_users", True, "is read by sendmail(1) and postdrop(1), as"),
        *((name, True, "is read by postqueue(1), as") for name in ("authorized_flush_users", "authorized_mailq_users")),
        ("relay_destination_concurrency_limit", True, "does not take lookup tables"),
    ],
)
def test_table_fault(parameter, is_own, reason):
    fault = _ispmail_programs.table_fault(parameter, "maps:x:parameter", is_own)
    assert (fault is None) if reason is None else (reason in str(fault) and fault.fix)


# What the manual page of each program lists, turned round: a table is asked as each of its readers before it goes live.
READERS = {
    "trivial-rewrite": "mydestination relay_domains virtual_alias_domains virtual_mailbox_domains transport_maps "
    "relocated_maps address_verify_transport_maps",
    "smtpd": "mydestination relay_domains virtual_alias_domains virtual_mailbox_domains relocated_maps mynetworks "
    "local_recipient_maps relay_recipient_maps rbl_reply_maps virtual_alias_maps virtual_maps canonical_maps "
    "recipient_canonical_maps sender_canonical_maps virtual_mailbox_maps alias_maps permit_mx_backup_networks",
    "cleanup": "virtual_alias_maps virtual_maps canonical_maps recipient_canonical_maps sender_canonical_maps "
    "sender_bcc_maps recipient_bcc_maps masquerade_exceptions",
    "local": "mydestination alias_maps fallback_transport_maps mailbox_command_maps propagate_unmatched_extensions "
    "forward_path",
    "virtual": "virtual_mailbox_maps virtual_uid_maps virtual_gid_maps",
    "flush": "fast_flush_domains",
    "proxymap": "proxy_read_maps",
    "qmqpd": "qmqpd_authorized_clients",
    "postdrop": "local_login_sender_maps authorized_submit_users",
    "sendmail": "authorized_submit_users",
    "postqueue": "authorized_flush_users authorized_mailq_users",
    "lmtp": "lmtp_sasl_password_maps",
    "postscreen": "postscreen_access_list",
    "tlsproxy": "tlsproxy_client_policy_maps",
    "smtp": "smtp_generic_maps smtp_tls_policy_maps use_srv_lookup",
}


@pytest.mark.parametrize("parameter", sorted({name for names in READERS.values() for name in names.split()}))
def test_all_programs_that_open_a_table_are_its_readers(parameter):
    readers = {program for program, names in READERS.items() if parameter in names.split()}
    assert set(_ispmail_programs.programs_of(parameter)) == readers


def test_all_programs_that_may_ask_a_table_are_known():
    commands = {"postdrop", "sendmail", "postqueue"}
    assert {*READERS, *_ispmail_programs.MOST} - commands == _ispmail_programs.ASKERS


@pytest.mark.parametrize(
    ("parameter", "takes"),
    [
        *((each, True) for each in ("mydestination", "relay_domains", "smtpd_authorized_xclient_hosts", "my_networks")),
        *((each, False) for each in ("virtual_alias_maps", "command_directory", "domains_file", "mydestinations")),
        ("smtpd_forbidden_commands", True),
        ("postscreen_forbidden_commands", True),
        ("use_srv_lookup", True),
    ],
)
def test_which_parameters_take_pattern_files(parameter, takes):
    assert _ispmail_programs.is_match_list(parameter) is takes


@pytest.mark.parametrize(
    "restrictions, before, is_one",
    [
        ("smtpd_sender_restrictions", "check_sender_access", False),
        ("smtpd_sender_restrictions", "check_recipient_access", True),
        *((f"smtpd_{name}_restrictions", "Check_Recipient_Access", False) for name in ("relay", "recipient")),
        *((f"smtpd_{name}_restrictions", f"check_{name}_access", False) for name in ("client", "helo", "etrn")),
        *((f"smtpd_{name}_restrictions", "check_recipient_access", True) for name in ("data", "end_of_data")),
        ("smtpd_sender_restrictions", "permit", False),
    ],
)
def test_where_a_parameter_may_hold_one_table(restrictions, before, is_one):
    """smtpd asks what follows it as the list says, see its generic_checks()."""
    assert _ispmail_programs.takes_one_table(restrictions, before) is is_one


def test_the_fault_of_a_second_table():
    fault = _ispmail_programs.second_table_fault(
        "own", "maps:a:parameter", "check_helo_access", "smtpd_data_restrictions"
    )
    assert (fault.key, fault.fix) == (
        "maps:a:parameter",
        "give the map a parameter of its own, such as own_2, and write check_helo_access $own_2 there too",
    )
    assert "own stands behind check_helo_access in smtpd_data_restrictions" in fault.reason


def test_lists_of_restrictions():
    names = ["smtpd_sender_restrictions", "smtpd_restriction_classes", "ours_restrictions", "smtpd_data_restrictions"]
    assert _ispmail_programs.restriction_lists(names) == [names[0], names[3]]
