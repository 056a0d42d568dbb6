CREATE TABLE dbmail_aliases (alias VARCHAR(255), deliver_to VARCHAR(255));
INSERT INTO dbmail_aliases VALUES ('john@example.org', '7')
