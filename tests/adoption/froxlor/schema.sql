CREATE TABLE panel_domains (id INT, domain VARCHAR(255), isemaildomain TINYINT);
CREATE TABLE mail_users (email VARCHAR(255), username VARCHAR(255), homedir VARCHAR(255), maildir VARCHAR(255));
CREATE TABLE mail_virtual (email VARCHAR(255), email_full VARCHAR(255), destination TEXT, domainid INT);
INSERT INTO panel_domains VALUES (1, 'example.org', 1);
INSERT INTO mail_users VALUES ('john@example.org', 'john@example.org', '/var/customers/mail/', 'john/example.org/john/');
INSERT INTO mail_virtual VALUES ('jack@example.org', 'jack@example.org', 'john@example.org', 1)
