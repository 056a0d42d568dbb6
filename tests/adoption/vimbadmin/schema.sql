CREATE TABLE domain (domain VARCHAR(255), backupmx TINYINT, active TINYINT);
CREATE TABLE alias (address VARCHAR(255), goto TEXT, active TINYINT);
CREATE TABLE mailbox (username VARCHAR(255), maildir VARCHAR(255), active TINYINT);
INSERT INTO domain VALUES ('example.org', 0, 1);
INSERT INTO alias VALUES ('jack@example.org', 'john@example.org', 1);
INSERT INTO mailbox VALUES ('john@example.org', 'maildir:/srv/vmail/example.org/john/', 1)
