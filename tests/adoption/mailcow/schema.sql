CREATE TABLE domain (domain VARCHAR(255), backupmx TINYINT, active TINYINT);
CREATE TABLE alias_domain (alias_domain VARCHAR(255), target_domain VARCHAR(255), active TINYINT);
CREATE TABLE alias (address VARCHAR(255), goto TEXT, active TINYINT);
CREATE TABLE spamalias (address VARCHAR(255), goto TEXT, validity INT);
CREATE TABLE mailbox (username VARCHAR(255), attributes TEXT, mailbox_path_prefix VARCHAR(150), active TINYINT);
INSERT INTO domain VALUES ('example.org', 0, 1), ('example.com', 1, 1);
INSERT INTO alias_domain VALUES ('also.example.org', 'example.org', 1);
INSERT INTO alias VALUES ('jack@example.org', 'john@example.org', 1);
INSERT INTO spamalias VALUES ('jack@example.org', 'john@example.org', 2147483647);
INSERT INTO mailbox VALUES ('john@example.org', '{"mailbox_format": "maildir:"}', '/var/vmail/', 1)
