CREATE TABLE domain (domain VARCHAR(255), transport VARCHAR(255), backupmx TINYINT, active TINYINT);
CREATE TABLE alias_domain (alias_domain VARCHAR(255), target_domain VARCHAR(255), active TINYINT);
CREATE TABLE mailbox (username VARCHAR(255), domain VARCHAR(255), storagenode VARCHAR(255), maildir VARCHAR(255), transport VARCHAR(255), active TINYINT);
CREATE TABLE forwardings (address VARCHAR(255), forwarding VARCHAR(255), domain VARCHAR(255), active TINYINT);
INSERT INTO domain VALUES ('example.org', 'dovecot', 0, 1);
INSERT INTO alias_domain VALUES ('also.example.org', 'example.org', 1);
INSERT INTO mailbox VALUES ('john@example.org', 'example.org', 'vmail1', 'example.org/j/o/h/john', 'dovecot', 1);
INSERT INTO forwardings VALUES ('jack@example.org', 'john@example.org', 'example.org', 1), ('example.org', 'all@example.net', 'example.org', 1)
