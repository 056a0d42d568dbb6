# Both mail servers of Berlin ask the database server of that site, over TLS. They use proxymap: it opens fewer
# connections, and it reads the CA file outside smtpd's chroot, so that no copy is needed inside.
ispmail:
  database:
    password: 'sdb://mail/berlin'
    hosts: [192.0.2.10]
    tls_CAfile: /etc/ssl/certs/mail-db.pem
    tls_verify_cert: true
  # Salt logs in to the database server as root through the unix socket. If it needed an admin's password, that would
  # belong in a pillar file that only db.berlin gets.
  server:
    accounts_host: 192.0.2.%
  maps:
    virtual_mailbox_domains: {proxy: true}
    virtual_alias_maps: {proxy: true}
    virtual_mailbox_maps: {proxy: true}
  answers:
    - {map: virtual_mailbox_domains, question: berlin.example, answer: true}
