CREATE TABLE domain (domain TEXT, active INTEGER);
CREATE TABLE alias (address TEXT, goto TEXT, active INTEGER);
CREATE TABLE mailbox (username TEXT, maildir TEXT, active INTEGER);
INSERT INTO domain VALUES ('example.org', '1');
INSERT INTO alias VALUES ('jack@example.org', 'john@example.org', 1);
INSERT INTO mailbox VALUES ('john@example.org', 'example.org/john/', 1)
