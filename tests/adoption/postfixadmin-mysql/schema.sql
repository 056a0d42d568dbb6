CREATE TABLE domain (domain VARCHAR(255), backupmx TINYINT, active TINYINT);
CREATE TABLE alias (address VARCHAR(255), goto TEXT, domain VARCHAR(255), active TINYINT);
CREATE TABLE alias_domain (alias_domain VARCHAR(255), target_domain VARCHAR(255), active TINYINT);
CREATE TABLE mailbox (username VARCHAR(255), maildir VARCHAR(255), quota BIGINT, active TINYINT);
INSERT INTO domain VALUES ('example.org', 0, 1), ('example.com', 1, 1), ('example.net', 0, 0);
INSERT INTO alias VALUES ('jack@example.org', 'john@example.org', 'example.org', 1);
INSERT INTO alias VALUES ('@example.org', 'all@example.net,more@example.net', 'example.org', 1);
INSERT INTO alias_domain VALUES ('also.example.org', 'example.org', 1);
INSERT INTO mailbox VALUES ('john@example.org', 'example.org/john/', 1024000, 1)
